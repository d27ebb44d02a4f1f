# Nearside: build, run, test and check. `make` alone lists what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Everything is pure Go; only the race detector needs a C compiler.
export CGO_ENABLED := 0

# Tools are built once, in modules of their own (buf moves protobuf to a
# pre-release, golangci-lint drags in hundreds of modules), and keep their
# version in their name, so that a new version is a new file.
BIN := .tmp/bin
version_of = $(shell sed -n 's|^.*$(2) \(v[^ ]*\).*|\1|p' tools/$(1)/go.mod)
BUF := $(BIN)/buf-$(call version_of,buf,github.com/bufbuild/buf)
VULN := $(BIN)/govulncheck-$(call version_of,vuln,golang.org/x/vuln)
LINT := $(BIN)/golangci-lint-$(call version_of,lint,github.com/golangci/golangci-lint/v2)

# What the commands below take: make bench BENCH=Scan PACKAGES=./internal/sqlsplit
PACKAGES ?= ./...
BENCH ?= .
BENCH_FLAGS ?=
FUZZTIME ?= 10s
PORT ?= 8080
REGIONS ?= us-east-1,eu-west-1,ap-southeast-1
DIR ?= .nearside

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

# The TypeScript client and the page at /demo/ need Node. Without it all else works: what is left out says so, and
# is an error with CI=true.
NODE := $(and $(shell command -v node),$(shell command -v npm))
define left_out
	@echo "$(1) left out: node or npm is missing" >&2; [[ "$(CI)" != true ]]
endef
WEB_MODULES := web/node_modules/.package-lock.json

.PHONY: build
build: ## Build bin/nearside
	go build -trimpath -o bin/nearside ./cmd/nearside

.PHONY: run
run: build ## Start a mesh of three regions on this machine (DIR, PORT, REGIONS)
	bin/nearside up --dir $(DIR) --port $(PORT) --regions $(REGIONS)

IN_TESTS := --include='*_test.go' --exclude-dir=.tmp --exclude-dir=node_modules

# Packages whose tests watch for leaked goroutines are those that start some,
# so they are the ones worth the race detector's price, unless PACKAGES says more.
RACE_PACKAGES = $(if $(filter-out ./...,$(PACKAGES)),$(PACKAGES),$(shell grep -rl $(IN_TESTS) go.uber.org/goleak . | xargs -r -n1 dirname | sort -u))
RACE ?= $(if $(filter true,$(CI)),1)

.PHONY: test
test: ## Run all tests; with RACE=1 or CI=true and a C compiler also under the race detector
	@{ status=0; \
	$(if $(filter ./...,$(PACKAGES)),$(MAKE) web-test WEB_TEST_FLAGS="--reporter ./test/gotest.ts" || status=1;) \
	go test -json $(PACKAGES) || status=1; \
	if [[ -n "$(RACE)" && -n "$(RACE_PACKAGES)" ]]; then \
		if command -v "$$(go env CC)" >/dev/null; then \
			CGO_ENABLED=1 go test -json -race -short $(RACE_PACKAGES) || status=1; \
		else \
			echo "race detector left out: no C compiler" >&2; \
		fi; \
	fi; \
	exit $$status; } | go run ./internal/testtotals

.PHONY: check
check: check-format check-vet check-tidy check-proto check-breaking check-generated check-web check-docs check-lint check-vulnerabilities ## All that must hold before a commit, tests apart

.PHONY: check-format
check-format:
	@bad=$$(find . \( -name .tmp -o -name gen -o -name node_modules \) -prune -o -name '*.go' -print | xargs gofmt -l); \
	if [[ -n "$$bad" ]]; then echo "not formatted (run gofmt -w):"; echo "$$bad"; exit 1; fi

.PHONY: check-vet
check-vet:
	go vet $$(go list ./... | grep -v '/internal/sqlite$$')
	@# Addresses are integers in SQLite's C interface.
	if [[ -d internal/sqlite ]]; then go vet -unsafeptr=false ./internal/sqlite; fi

.PHONY: check-tidy
check-tidy:
	go mod tidy -diff
	go -C tools/buf mod tidy -diff
	go -C tools/vuln mod tidy -diff
	go -C tools/lint mod tidy -diff
	go -C tools/conformance mod tidy -diff

.PHONY: check-proto
check-proto: $(BUF) third-party
	$(BUF) lint

.PHONY: check-breaking
check-breaking: $(BUF) third-party
	@tools/check-breaking $(abspath $(BUF))

.PHONY: check-generated
check-generated: generate-aside
	@diff -r gen .tmp/generate/gen && cmp $(DESCRIPTORS) .tmp/generate/descriptors.binpb || { echo "gen/ is not what proto/ generates: run make generate"; exit 1; }

.PHONY: check-docs
check-docs: $(BUF) $(if $(NODE),web) ## Run the examples of README.md and docs/, and hold their tables and links against the code
	go test ./internal/docstest

CONFORMANCE_VERSION := $(call version_of,conformance,connectrpc.com/conformance)

.PHONY: conformance
conformance: $(BUF) ## Run Connect's conformance suite through a gateway, in front of the suite's own server
	@go -C tools/conformance build -o $(abspath $(BIN))/connectconformance-$(CONFORMANCE_VERSION) connectrpc.com/conformance/cmd/connectconformance
	@go -C tools/conformance build -o $(abspath $(BIN))/referenceserver-$(CONFORMANCE_VERSION) connectrpc.com/conformance/cmd/referenceserver
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	$(BUF) build "$$(go -C tools/conformance list -m -f '{{.Dir}}' connectrpc.com/conformance)/proto" -o "$$dir/conformance.binpb"; \
	go build -o "$$dir/undertest" ./internal/meshtest/conformance; \
	timeout 5m $(BIN)/connectconformance-$(CONFORMANCE_VERSION) --conf internal/meshtest/conformance/config.yaml --mode server \
		--max-servers 2 -- "$$dir/undertest" --descriptors "$$dir/conformance.binpb" -- \
		$(abspath $(BIN))/referenceserver-$(CONFORMANCE_VERSION)

.PHONY: check-vulnerabilities
check-vulnerabilities: $(VULN) ## Look for known vulnerabilities in what nearside calls, if their database can be reached
	@tools/check-vulnerabilities $(VULN)

.PHONY: check-lint
check-lint: $(LINT)
	$(LINT) run

# The protos as they are, with their comments, for documents that are made of them.
DESCRIPTORS := internal/descriptors/descriptors.binpb

.PHONY: generate
generate: generate-aside ## Make from proto/: gen/, docs/openapi.json, the GraphQL schema, and what of web/ depends on it
	rm -rf gen
	mv .tmp/generate/gen gen
	mv .tmp/generate/descriptors.binpb $(DESCRIPTORS)
	go test ./sidecar/rest -run '^TestDocument$$' -update >/dev/null
	go test ./sidecar/graphql -run '^TestSchema$$' -update >/dev/null
ifneq ($(NODE),)
	$(MAKE) generate-web
	rm -rf web/src/gen
	mv .tmp/generate-web/web/src/gen web/src/gen
	$(MAKE) demo
else
	$(call left_out,web/src/gen and the page at /demo/)
endif

# Generated aside and then moved, so that an error in a proto leaves gen/ whole.
.PHONY: generate-aside
generate-aside: $(BUF) third-party
	@rm -rf .tmp/generate
	$(BUF) generate -o .tmp/generate
	$(BUF) build proto --as-file-descriptor-set --exclude-imports -o .tmp/generate/descriptors.binpb

.PHONY: generate-web
generate-web: $(BUF) $(WEB_MODULES) third-party
	@rm -rf .tmp/generate-web
	$(BUF) generate --template buf.gen.web.yaml -o .tmp/generate-web

$(WEB_MODULES): web/package.json web/package-lock.json
	cd web && npm ci --ignore-scripts
	touch $@

# Types, and that what is committed is what the sources make.
.PHONY: check-web
ifneq ($(NODE),)
check-web: generate-web
	@diff -r web/src/gen .tmp/generate-web/web/src/gen || { echo "web/src/gen is not what proto/ generates: run make generate"; exit 1; }
	cd web && npm run --silent check
	@rm -rf .tmp/demo
	cd web && DEMO_OUT=../../.tmp/demo npm run --silent demo -- --logLevel error
	@diff -r sidecar/demo/dist .tmp/demo || { echo "sidecar/demo/dist is not what web/demo makes: run make demo"; exit 1; }
else
check-web:
	$(call left_out,check of web/)
endif

.PHONY: web
web: $(WEB_MODULES) ## Build the TypeScript client into web/dist
	cd web && npm run --silent build

.PHONY: demo
demo: $(WEB_MODULES) ## Build the page at /demo/ into sidecar/demo/dist
	cd web && npm run --silent demo

.PHONY: web-test
ifneq ($(NODE),)
web-test: build web ## Test the TypeScript client and the page at /demo/: alone, against a mesh, in Chromium
	cd web && npx vitest run $(WEB_TEST_FLAGS)
else
web-test:
	$(call left_out,tests of web/)
endif

.PHONY: third-party
third-party:
	@go run ./internal/protoexport third_party/proto

.PHONY: bench
bench: ## Run the benchmarks (BENCH, PACKAGES)
	go test -run '^$$' -bench '$(BENCH)' -benchmem $(PACKAGES)

.PHONY: bench-system
bench-system: build ## Measure a whole mesh beside a bare Connect echo (BENCH_FLAGS=-quick for a trial)
	go run ./bench -nearside bin/nearside $(BENCH_FLAGS)

.PHONY: bench-peers
bench-peers: build ## Measure Nearside beside bare servers, Redis, PostgreSQL and Dapr, as far as they are installed
	go run ./bench/peers -nearside bin/nearside $(BENCH_FLAGS)

.PHONY: bench-soak
bench-soak: build ## 10 minutes at 10,000 requests/s, judged (BENCH_FLAGS="-duration 1m -rate 1000" for less)
	go run ./bench/soak -nearside bin/nearside $(BENCH_FLAGS)

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10s)
	@grep -r $(IN_TESTS) -o '^func Fuzz[A-Za-z0-9_]*' . | while IFS=: read -r file name; do \
		name=$${name#func }; echo "$$name in $$(dirname "$$file")"; \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null; \
	done

.PHONY: clean
clean: ## Remove what was built, but not the tools and not the data in .nearside
	rm -rf bin third_party coverage* .tmp/generate .tmp/generate-web .tmp/breaking .tmp/demo .tmp/demo-pictures web/dist

$(BUF):
	go -C tools/buf build -o $(abspath $@) github.com/bufbuild/buf/cmd/buf

$(VULN):
	go -C tools/vuln build -o $(abspath $@) golang.org/x/vuln/cmd/govulncheck

$(LINT):
	go -C tools/lint build -o $(abspath $@) github.com/golangci/golangci-lint/v2/cmd/golangci-lint
