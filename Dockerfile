# Two stages: the compiler stays in the first. `docker build -t router .`, then see README.md for `docker run`.
FROM debian:trixie-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev make pkg-config libyaml-dev libllhttp-dev libcjson-dev libxxhash-dev libc-ares-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Makefile ./
COPY include include
COPY src src
RUN make --no-print-directory router

FROM debian:trixie-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends libyaml-0-2 libllhttp9.2 libcjson1 libxxhash0 libcares2 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --no-create-home --shell /usr/sbin/nologin --uid 10001 router
COPY --from=build /src/router /usr/local/bin/router
COPY pools.yaml /etc/router/pools.yaml
USER 10001:10001
EXPOSE 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["/usr/local/bin/router", "-healthcheck", "http://127.0.0.1:9090/health"]
ENTRYPOINT ["/usr/local/bin/router"]
CMD ["-config", "/etc/router/pools.yaml", "-listen", "0.0.0.0:9090"]
