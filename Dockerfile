# The images for people who push to a registry. `make images` stages the roots: the binary, the libraries it
# needs, CA certificates, /tmp. Then: docker build --target proxy --tag REGISTRY/sallyport-proxy .
# The archives in build/images hold the same files, for containerd, `docker load` and kind.
FROM scratch AS operator
COPY build/images/operator/ /
USER 65532:65532
ENTRYPOINT ["/sallyport-operator"]

FROM scratch AS proxy
COPY build/images/proxy/ /
USER 65532:65532
ENTRYPOINT ["/sallyport-proxy"]
