"""What the integration tests stand on: both ends of the wire, scripted, and the router in between as a process.

Everything waits for an event with a deadline; nothing sleeps to be long enough. Standard library only.
"""
from .client import RawClient, Response, chat_body, request_bytes
from .dns import Dns
from .lab import Lab
from .router import Router, run_router, ROUTER_BIN
from .upstream import BlackHole, Conn, DeadEndpoint, Request, Upstream
from .wire import DEADLINE, Malformed, PeerClosed, Truncated, WaitTimeout, Wire, header, headers_named

__all__ = [
    "BlackHole", "Conn", "DEADLINE", "DeadEndpoint", "Dns", "Lab", "Malformed", "PeerClosed", "RawClient", "Request", "Response",
    "ROUTER_BIN", "Router", "Truncated", "Upstream", "WaitTimeout", "Wire", "chat_body", "header", "headers_named",
    "request_bytes", "run_router",
]
