GO ?= go
FUZZTIME ?= 10s
SEEDS ?= 2000

# The sample systems, and what tests share; ./... leaves them out.
SAMPLES := ./testdata/kit/... ./testdata/kv/... ./testdata/line/... ./testdata/grpc/... ./testdata/udp/... ./testdata/member/... ./testdata/wall/...

.PHONY: check format vet staticcheck test race fuzz sim states crash cluster mixed ui bad nats real packages packages-test bench microbench demo tour

check: format vet staticcheck test

format:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }

# Agents run on Linux and macOS; the other commands are built for Windows, too.
vet:
	$(GO) vet ./... $(SAMPLES)
	GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) vet ./...

staticcheck:
	$(GO) tool staticcheck ./... $(SAMPLES)

test:
	$(GO) test ./... $(SAMPLES)

# What is pure starts no goroutine, as a house test sees to: there is no race to be found.
PURE := gossip/view agent/schedule agent/upgrade agent/node agent/report

race:
	set -e; all=$$($(GO) list ./... $(SAMPLES)); \
	$(GO) test -race -short $$(echo "$$all" | grep -vxF "$$(printf 'moult/%s\n' $(PURE))")

# Every fuzz target for FUZZTIME, with one worker, those of two packages beside each other.
fuzz:
	.ci/fuzz $(FUZZTIME)

# The deterministic simulator, over SEEDS seeds.
sim:
	$(GO) test ./agent/sim -count=1 -timeout 30m -run 'TestSeeds|TestTallyIsKept' -seeds $(SEEDS) -v

# Every state of some small worlds, millions of them, which the real decisions can reach.
states:
	$(GO) test ./agent/sim/every -count=1 -timeout 30m -run 'TestEvery$$' -whole -v

# kill -9 of the agent at every failpoint of every phase.
crash:
	$(GO) test ./cmd/moult -count=1 -timeout 20m -run '^Test(Crash|AttachCrash|WasmCrash)$$' -crash -v

# What needs clusters of its own for long: ways out of troubles, membership, lost and damaged
# files, bad releases, rehearsals, conditions, terminals, Prometheus (where it is installed).
cluster:
	$(GO) test ./cmd/moult -count=1 -timeout 30m -run '^Test(AgentRestarts|AgentsByRelease|AwayForTwoReleases|Backup|BadAgentByRelease|BadObjectProcesses|DataFolder|DemoBad|DemoHangsUp|Facts|FinalizeAfter|FullOutage|Held|HeldAdmitted|InjectAtTwoPeers|JournalAudit|LateJoiner|LongCopy|MembersLost|Membership|OldAgents|OpenRing|Orders|Prometheus|RehearsalIsGivenUp|Rehearse|ReplaceAgentBad|ReplaceAgentKilled|Retire|Soak|StatusOfWhatRolls|Terminal|Twins|TwoHalves|WaysOut|Withdraw)$$' -cluster -v

# Versions mixed, under load, for every kind of attach and egress that works here; and a
# release that is taken back.
mixed:
	$(GO) test ./cmd/moult -count=1 -timeout 30m -run 'TestMixed|TestGRPC|TestLine|TestUDP|TestMember|TestUser|TestAgentDies|TestReplaceAgentUnderLoad|TestObserve|TestWasm|TestRevert$$' -mixed -v

# The page of moult ui, with Chromium, of a rollout of five nodes, and of 2,000 made-up ones.
# MOULT_AXE names the file of axe-core; pictures go to MOULT_PICTURES.
ui:
	$(GO) test ./cmd/moult -count=1 -timeout 5m -run '^TestUI(Page|Thousands)$$' -ui -v

# Six bad releases on seven nodes, under load: docs/reliability.md.
bad:
	$(GO) test ./cmd/moult -count=1 -timeout 20m -run TestBadReleases -bad -v

# Real releases of other software, from the Go module proxy or Debian, upgraded under its
# real clients by every kind of attach that the software can have.
real:
	$(GO) test ./cmd/moult -count=1 -timeout 30m -run TestReal -real -v

# Of these, the two releases of nats-server alone.
nats:
	$(GO) test ./cmd/moult -count=1 -timeout 20m -run TestRealNATS -real -v

# deb, rpm, apk and tar.gz, in build/packages.
packages:
	cmd/moult/packaging/make build/packages

# They are built twice, and installed in a new Debian.
packages-test:
	$(GO) test ./cmd/moult -count=1 -timeout 20m -run TestPackages -packages -v

# The speed table of docs/performance.md, in less than ten minutes. As root it has the
# kernel's part too, with haproxy, nginx and libnginx-mod-stream those, and with clang
# and lld a guest in C. BENCHFLAGS: see docs/performance.md.
bench:
	$(GO) test ./simlayer/speed -count=1 -run '^$$' -bench '^BenchmarkTable$$' -benchtime 1x -timeout 30m $(BENCHFLAGS)

# The benchmarks of single packages.
microbench:
	$(GO) test -run '^$$' -bench . -skip '^BenchmarkTable$$' -benchtime 1s ./...

demo:
	$(GO) run ./cmd/moult demo

# The README's tour, the walks out of troubles, and the installation on ten machines, to the letter.
tour:
	.ci/tour
	.ci/tour docs/ways-out.md
	.ci/tour docs/install.md
