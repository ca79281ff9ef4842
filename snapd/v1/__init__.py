"""The API, version 1: what protoc makes of protos/snapd/v1 when the package is built; nothing is written by hand."""
