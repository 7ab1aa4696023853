GO ?= go
FUZZTIME ?= 10s
SEEDS ?= 2000

.PHONY: check format vet staticcheck test race fuzz sim crash bench demo

check: format vet staticcheck test

format:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }

vet:
	$(GO) vet ./... ./testdata/kv/...

staticcheck:
	$(GO) tool staticcheck ./... ./testdata/kv/...

test:
	$(GO) test ./... ./testdata/kv/...

race:
	$(GO) test -race -short ./... ./testdata/kv/...

# Every fuzz target, one after the other, for FUZZTIME each.
fuzz:
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "fuzz $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg; \
	  done; \
	done

# The deterministic simulator, over SEEDS seeds.
sim:
	$(GO) test ./agent/sim -count=1 -timeout 30m -run TestSeeds -seeds $(SEEDS) -v

# kill -9 of the agent at every failpoint of every phase.
crash:
	$(GO) test ./cmd/moult -count=1 -run 'TestCrash|TestAgentDeath' -v

bench:
	$(GO) test -run '^$$' -bench . -benchtime 1s ./...

demo:
	$(GO) run ./cmd/moult demo

# The README's tour, to the letter.
tour:
	.ci/tour
