# The image is the binary and nothing else. By default it is compiled here; `--build-arg BINARY=prebuilt` takes
# dist/headgate as it is, for machines that cannot pull a base image (`make image` does that).
ARG BINARY=compile

FROM rust:1.95.0-bookworm AS compile
# The one of the image: what rust-toolchain.toml names would be downloaded beside it.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
# Static against glibc, so that it runs in an empty root and still resolves names.
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
    && RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --profile dist --locked --bin headgate --target "$target" \
    && mv "target/$target/dist/headgate" /headgate

FROM scratch AS prebuilt
COPY dist/headgate /headgate

FROM ${BINARY} AS binary

FROM scratch
LABEL org.opencontainers.image.title="headgate" \
      org.opencontainers.image.description="Collects events from rate-limited HTTP sources into PostgreSQL, each transported once" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=binary /headgate /headgate
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/headgate"]
CMD ["run"]
