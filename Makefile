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
check: check-format check-vet check-tidy check-proto check-breaking check-generated check-docs check-lint ## All that must hold before a commit, tests apart

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
	go -C tools/lint mod tidy -diff

.PHONY: check-proto
check-proto: $(BUF) third-party
	$(BUF) lint

.PHONY: check-breaking
check-breaking: $(BUF) third-party
	@tools/check-breaking $(abspath $(BUF))

.PHONY: check-generated
check-generated: generate-aside
	@diff -r gen .tmp/generate/gen || { echo "gen/ is not what proto/ generates: run make generate"; exit 1; }

.PHONY: check-docs
check-docs: ## Run the examples of README.md and docs/, and hold their tables and links against the code
	go test ./internal/docstest

.PHONY: check-lint
check-lint: $(LINT)
	$(LINT) run

.PHONY: generate
generate: generate-aside ## Make gen/ from proto/
	rm -rf gen
	mv .tmp/generate/gen gen

# Generated aside and then moved, so that an error in a proto leaves gen/ whole.
.PHONY: generate-aside
generate-aside: $(BUF) third-party
	@rm -rf .tmp/generate
	$(BUF) generate -o .tmp/generate

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
	rm -rf bin third_party coverage* .tmp/generate .tmp/breaking

$(BUF):
	go -C tools/buf build -o $(abspath $@) github.com/bufbuild/buf/cmd/buf

$(LINT):
	go -C tools/lint build -o $(abspath $@) github.com/golangci/golangci-lint/v2/cmd/golangci-lint
