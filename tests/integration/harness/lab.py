"""One test's machinery: everything it starts ends with it, clients first, then endpoints, then the router."""
import contextlib
import copy

from .client import RawClient
from .router import Router
from .upstream import BlackHole, DeadEndpoint, Upstream

QUIET = {"health": {"interval": 0}, "model_list": {"interval": 0}}  # no probes disturb a scripted endpoint


class Lab:
    def __init__(self, directory):
        self.directory = directory
        self.routers, self.upstreams, self.clients, self.others = [], [], [], []

    def upstream(self, handler=None, **how):
        how.setdefault("name", f"up{len(self.upstreams) + 1}")
        up = Upstream(handler, **how)
        self.upstreams.append(up)
        return up

    def scripted(self, **how):
        return self.upstream(manual=True, **how)

    def dead(self, **how):
        return self.keep(DeadEndpoint(**how))

    def blackhole(self):
        return self.keep(BlackHole())

    def keep(self, thing):
        """Closed at the end too."""
        self.others.append(thing)
        return thing

    def revive(self, dead, **how):
        self.others.remove(dead)
        up = dead.live(**how)
        self.upstreams.append(up)
        return up

    def config(self, endpoints=None, models=("m",), pools=None, defaults=None, probes=False, pool=None, **top):
        """A configuration: one pool "p" of those endpoints (upstreams, URLs or mappings), or `pools` as they are."""
        if pools is None:
            pools = [{"name": "p", "models": list(models), "endpoints": endpoints, **(pool or {})}]
        pools = [dict(p) for p in pools]
        for p in pools:
            p["endpoints"] = [endpoint_config(e) for e in aslist(p["endpoints"])]
            if "models" in p:
                p["models"] = list(p["models"])
        merged = {} if probes else copy.deepcopy(QUIET)
        for key, value in (defaults or {}).items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = {**merged[key], **value}
            else:
                merged[key] = value
        return {**top, **({"defaults": merged} if merged else {}), "pools": pools}

    def router(self, endpoints=None, listen=("127.0.0.1:0",), args=(), env=None, binary=None, config=None, **how):
        """A router before those endpoints, listening."""
        if config is None:
            config = self.config(endpoints, **how)
        router = Router(self.directory / f"router{len(self.routers) + 1}", config, listen=listen, args=args, env=env, binary=binary)
        self.routers.append(router)
        return router

    def client(self, router, index=0, **how):
        client = RawClient(router.addresses[index], **how)
        self.clients.append(client)
        return client

    def scripted_pair(self, **how):
        """A scripted endpoint, the router before it, a client of the router."""
        up = self.scripted()
        router = self.router(up, **how)
        return up, router, self.client(router)

    def close(self):
        with contextlib.ExitStack() as stack:
            for router in self.routers:
                stack.callback(router.stop)
            for up in self.upstreams:
                stack.callback(up.check)
            for thing in self.upstreams + self.others:
                stack.callback(thing.close)
            for client in self.clients:
                stack.callback(client.close)

    def abandon(self):
        """After a failed test: end everything, raise nothing more."""
        for thing in self.clients + self.upstreams + self.others:
            with contextlib.suppress(Exception):
                thing.close()
        for router in self.routers:
            with contextlib.suppress(Exception):
                router.kill()


def aslist(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


def endpoint_config(endpoint):
    if isinstance(endpoint, dict):
        return {**endpoint, "url": getattr(endpoint["url"], "url", endpoint["url"])}
    return getattr(endpoint, "url", endpoint)
