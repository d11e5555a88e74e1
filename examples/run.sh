#!/bin/sh
# What `make run` does once ./router is built: two demo backends, the router on them, one chat in front of your eyes.
# ROUTER_ONCE=1 ends after that chat. ROUTER_USER=name chats as somebody else.
set -u
cd "$(dirname "$0")/.." || exit 1
user=${ROUTER_USER:-alice}
pids=""
stop() {
    trap - INT TERM EXIT
    for p in $pids; do kill "$p" 2>/dev/null; done
    for p in $pids; do wait "$p" 2>/dev/null; done
}
trap 'stop; exit 0' INT TERM
trap stop EXIT

for port in 9001 9101 9090; do
    if ! /usr/bin/python3 -c "import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', $port))" 2>/dev/null; then
        echo "make run: port $port is taken: stop what listens there and try again" >&2
        exit 1
    fi
done
echo "== two demo backends on 127.0.0.1:9001 and :9101, the router on :9090 with pools.yaml"
/usr/bin/python3 examples/backend --port 9001 --name gpu1 --models llama3-8b-instruct,qwen2.5-7b-instruct & pids="$pids $!"
/usr/bin/python3 examples/backend --port 9101 --name gpu2 --models llama3-8b-instruct,qwen2.5-7b-instruct,phi-4 & pids="$pids $!"
for port in 9001 9101; do
    curl -s -o /dev/null --retry 50 --retry-delay 0 --retry-connrefused --max-time 10 "http://127.0.0.1:$port/health" || { echo "make run: the backend on port $port did not start" >&2; exit 1; }
done
mkdir -p build
./router -config pools.yaml -listen 127.0.0.1:9090 >build/access.log & router=$!
pids="$router $pids"
curl -s -o /dev/null --retry 50 --retry-delay 0 --retry-connrefused --max-time 10 http://127.0.0.1:9090/health || { echo "make run: the router did not start" >&2; exit 1; }

echo
echo "== a chat as user \"$user\", streamed through the router:"
curl -sS -N --max-time 60 http://127.0.0.1:9090/v1/chat/completions -H 'Content-Type: application/json' \
    -d "{\"model\":\"llama3-8b-instruct\",\"user\":\"$user\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Who are you?\"}]}" |
    /usr/bin/python3 -u examples/show.py
status=$?
echo
echo "== the router's line about it (all of them are in build/access.log):"
for _ in 1 2 3 4 5 6 7 8 9 10; do grep -q '"path":"/v1/chat' build/access.log && break; sleep 0.1; done
grep '"path":"/v1/chat' build/access.log
echo
if [ -n "${ROUTER_ONCE:-}" ]; then exit $status; fi
cat <<'EOT'
== it runs. Try, in another terminal:
   the same again, as raw events:
     curl -N http://127.0.0.1:9090/v1/chat/completions -d '{"model":"llama3-8b-instruct","user":"alice","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
   another user, who may land on the other endpoint (but always on the same one):
     curl http://127.0.0.1:9090/v1/chat/completions -d '{"model":"llama3-8b-instruct","user":"bob","messages":[{"role":"user","content":"Hi"}]}'
   a model that only the second pool serves, and one list of all models:
     curl http://127.0.0.1:9090/v1/chat/completions -d '{"model":"phi-4","messages":[{"role":"user","content":"Hi"}]}'
     curl http://127.0.0.1:9090/v1/models
   the live page, with a browser on this machine:
     http://127.0.0.1:9090/ui
   Ctrl-C stops everything.
EOT
wait "$router"
