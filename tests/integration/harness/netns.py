"""Networks of their own, for tests that run as root."""
import ctypes
import os
import subprocess

ALLOWED = subprocess.run(["unshare", "-n", "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0


class Namespace:
    """A network of its own, with a loopback that can go dark."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"],
                                       stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "up\n"
        self.prefix = ["nsenter", "-t", str(self.holder.pid), "-n"]

    def run(self, *command):
        subprocess.run([*self.prefix, *command], check=True)

    def enter(self, make):
        """make() within the namespace; what sockets it makes stay there."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{self.holder.pid}/ns/net") as theirs:
            assert libc.setns(theirs.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
            try:
                return make()
            finally:
                assert libc.setns(ours.fileno(), 0) == 0

    def close(self):
        self.holder.kill()
        self.holder.wait()
