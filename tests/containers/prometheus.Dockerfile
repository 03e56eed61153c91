# What stands in for the image prom/prometheus: Debian's build of the same series, laid out as in that image.
FROM debian:bookworm-slim AS package
WORKDIR /package
RUN sed -i '/^$/,$d; s/^Suites: .*/Suites: forky/' /etc/apt/sources.list.d/debian.sources \
    && apt-get update -qq \
    && apt-get download -qq prometheus promtool \
    && for each in *.deb; do dpkg --extract "$each" .; done

FROM debian:bookworm-slim
COPY --from=package /package/usr/bin/prometheus /package/usr/bin/promtool /bin/
COPY --from=package --chown=65534:65534 /package/etc/prometheus /etc/prometheus
WORKDIR /prometheus
RUN chown 65534:65534 .
USER 65534:65534
EXPOSE 9090
VOLUME /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
