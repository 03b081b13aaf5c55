.POSIX:
.DELETE_ON_ERROR:

VERSION = $$(git describe --tags --always --dirty 2>/dev/null || echo development)
GO_BUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"
PREFIX = /usr/local
# Of a package: that of the last release, and how many commits ago it was; or the commit's date, which sorts before the first. "~" sorts
# before the end, and "+" after it: v1.2.0-rc1 is 1.2.0~rc1, and 5 commits later it is 1.2.0~rc1+5.gHASH.
PACKAGE_VERSION = $$({ git describe --tags --match 'v[0-9]*' 2>/dev/null || TZ=UTC git show -s --date=format-local:%Y%m%d%H%M%S --format=v0~%cd.%h || \
	echo v0~development; } | sed 's/^v//; s/-\([0-9]*\)-\(g[0-9a-f]*\)$$/+\1.\2/; s/-/~/; s/-/./g')
PACKAGE_ARCH = $$(go env GOARCH)

help:            ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-16s %s\n", $$1, $$2}' Makefile

run: build       ## watch this machine for ten seconds, as root
	bin/culprit summary

build:           ## bin/culprit, static; needs Go alone
	$(GO_BUILD) -o bin/culprit ./cmd/culprit

install: build   ## into $PREFIX/bin; with CAPABILITIES=1, so that others than root can run it, too
	install -D bin/culprit $(DESTDIR)$(PREFIX)/bin/culprit
	@[ "$(CAPABILITIES)" != 1 ] || setcap cap_bpf,cap_perfmon=ep $(DESTDIR)$(PREFIX)/bin/culprit

# What is packaged twice is the same twice: all its times are the commit's.
packages: build  ## bin/packages/*.deb and *.rpm; PACKAGE_ARCH=arm64 makes those for arm64
	rm -rf bin/packages
	mkdir -p bin/packages
	GOOS=linux GOARCH=$(PACKAGE_ARCH) $(GO_BUILD) -o bin/packages/culprit ./cmd/culprit
	for s in bash zsh fish; do bin/culprit completion $$s > bin/packages/$$s || exit; done
	export SOURCE_DATE_EPOCH=$$(git show -s --format=%ct 2>/dev/null || echo 0) PACKAGE_VERSION="$(PACKAGE_VERSION)" PACKAGE_ARCH="$(PACKAGE_ARCH)"; \
	bin/culprit man bin/packages/man && gzip -9n bin/packages/man/*.1 && \
	go -C .ci/tools build -o ../../bin/nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm && \
	for form in deb rpm; do bin/nfpm package -f deploy/nfpm.yaml -p $$form -t bin/packages || exit; done

# What few tests fail is run once more, and shown: live tests need a machine that is not busy otherwise. What fails twice fails.
test:            ## everything that CI checks; as root, installs what is missing for it
	.ci/install
	$(MAKE) check-format vet check-generated cross
	go tool gotestsum --format standard-quiet --rerun-fails=1 --rerun-fails-max-failures=3 --packages=./... -- \
		-count=1 -p 1 -timeout 30m
	cd output/metrics/collectortest && go vet . && go test -count=1 .
	@echo "On other kernels: make test-kernels"

test-kernels:    ## the live tests on kernels from 6.1 to the newest, in virtual machines; as root
	.ci/install kernels
	go run ./probes/internal/kernels $(KERNELS)

lint: check-format vet ## style and common mistakes
	go tool staticcheck ./...

generate:        ## the BPF objects and their Go code, from bpf/; needs clang-19, libbpf-dev
	go generate ./probes/...

check-generated: ## that what is committed is what generate makes
	.ci/check-generated

bench:           ## what an event costs, beside libbpf-tools' and perf's; as root
	go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./probes/... ./cmd/...

clean:           ## what build made
	rm -rf bin

check-format:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "not formatted: gofmt -w ."; exit 1; }

vet:
	go vet ./...

cross:
	GOARCH=arm64 CGO_ENABLED=0 go build -o /dev/null ./cmd/culprit

.PHONY: help run build install packages test test-kernels lint generate check-generated bench clean check-format vet cross
