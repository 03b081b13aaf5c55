.POSIX:
.DELETE_ON_ERROR:

VERSION = $$(git describe --tags --always --dirty 2>/dev/null || echo development)
GO_BUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"
PREFIX = /usr/local

help:            ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-16s %s\n", $$1, $$2}' Makefile

run: build       ## watch this machine for ten seconds, as root: who uses the disks
	bin/culprit summary

build:           ## bin/culprit, static; needs Go alone
	$(GO_BUILD) -o bin/culprit ./cmd/culprit

install: build   ## into $PREFIX/bin
	install -D bin/culprit $(DESTDIR)$(PREFIX)/bin/culprit

test:            ## everything that CI checks; as root, installs what is missing for it
	.ci/install
	$(MAKE) check-format vet check-generated cross
	go test -count=1 -p 1 -timeout 30m ./...

lint: check-format vet ## style and common mistakes
	go tool staticcheck ./...

generate:        ## the BPF objects and their Go code, from bpf/; needs clang-19, libbpf-dev
	go generate ./probes/...

check-generated: ## that what is committed is what generate makes
	.ci/check-generated

bench:           ## what an event costs, beside libbpf-tools' biolatency; as root
	go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./probes/...

clean:           ## what build made
	rm -rf bin

check-format:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "not formatted: gofmt -w ."; exit 1; }

vet:
	go vet ./...

cross:
	GOARCH=arm64 CGO_ENABLED=0 go build -o /dev/null ./cmd/culprit

.PHONY: help run build install test lint generate check-generated bench clean check-format vet cross
