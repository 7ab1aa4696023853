package build

import "github.com/hashicorp/hcl/v2"

// The shape of upgrade.hcl for gohcl. Attributes stay unevaluated: decoder
// evaluates each where its rules are known, and so can point at it. Fields
// under "later" belong to the language but not to this moult.

type fileSchema struct {
	Release *releaseSchema `hcl:"release,block"`
}

type releaseSchema struct {
	At            hcl.Range      `hcl:",def_range"`
	Version       *hcl.Attribute `hcl:"version"`
	FinalizeAfter *hcl.Attribute `hcl:"finalize_after"`
	Classes       []classSchema  `hcl:"class,block"`
	Agent         *agentSchema   `hcl:"agent,block"`
}

type agentSchema struct {
	At              hcl.Range        `hcl:",def_range"`
	Artifacts       []artifactSchema `hcl:"artifact,block"`
	MaxUnavailable  *hcl.Attribute   `hcl:"max_unavailable"`
	HealthyDeadline *hcl.Attribute   `hcl:"healthy_deadline"`
}

type classSchema struct {
	At        hcl.Range         `hcl:",def_range"`
	Name      string            `hcl:"name,label"`
	NameAt    hcl.Range         `hcl:"name,label_range"`
	From      *hcl.Attribute    `hcl:"from"`
	Artifacts []artifactSchema  `hcl:"artifact,block"`
	Command   *hcl.Attribute    `hcl:"command"`
	Services  []serviceSchema   `hcl:"service,block"`
	Health    *healthSchema     `hcl:"health,block"`
	Transform *transformSchema  `hcl:"transform,block"`
	Rehearse  *rehearseSchema   `hcl:"rehearse,block"`
	Finalized *hcl.Attribute    `hcl:"finalized"`
	Hooks     *hooksSchema      `hcl:"hooks,block"`
	Past      *simulationSchema `hcl:"past,block"`
	Future    *simulationSchema `hcl:"future,block"`
	Facts     []factSchema      `hcl:"fact,block"`
	Schedule  *scheduleSchema   `hcl:"schedule,block"`
}

type hooksSchema struct {
	At        hcl.Range      `hcl:",def_range"`
	PreStop   *hcl.Attribute `hcl:"pre_stop"`
	PostStart *hcl.Attribute `hcl:"post_start"`
	Timeout   *hcl.Attribute `hcl:"timeout"`
}

type artifactSchema struct {
	At   hcl.Range      `hcl:",def_range"`
	OS   *hcl.Attribute `hcl:"os"`
	Arch *hcl.Attribute `hcl:"arch"`
	Path *hcl.Attribute `hcl:"path"`
	Name *hcl.Attribute `hcl:"name"`
}

type serviceSchema struct {
	At       hcl.Range      `hcl:",def_range"`
	Name     string         `hcl:"name,label"`
	NameAt   hcl.Range      `hcl:"name,label_range"`
	Protocol *hcl.Attribute `hcl:"protocol"`
}

type healthSchema struct {
	At              hcl.Range      `hcl:",def_range"`
	HTTP            *hcl.Attribute `hcl:"http"`
	TCP             *hcl.Attribute `hcl:"tcp"`
	Exec            *hcl.Attribute `hcl:"exec"`
	Notify          *hcl.Attribute `hcl:"notify"`
	Service         *hcl.Attribute `hcl:"service"`
	Interval        *hcl.Attribute `hcl:"interval"`
	MinHealthyTime  *hcl.Attribute `hcl:"min_healthy_time"`
	HealthyDeadline *hcl.Attribute `hcl:"healthy_deadline"`
	DrainTimeout    *hcl.Attribute `hcl:"drain_timeout"`
}

type transformSchema struct {
	At        hcl.Range      `hcl:",def_range"`
	Exec      *hcl.Attribute `hcl:"exec"`
	Timeout   *hcl.Attribute `hcl:"timeout"`
	MemoryMax *hcl.Attribute `hcl:"memory_max"`
	DiskMax   *hcl.Attribute `hcl:"disk_max"`
	Reverse   *reverseSchema `hcl:"reverse,block"`
	// later
	Object []laterSchema `hcl:"object,block"`
}

type reverseSchema struct {
	At   hcl.Range      `hcl:",def_range"`
	Exec *hcl.Attribute `hcl:"exec"`
}

type rehearseSchema struct {
	At       hcl.Range      `hcl:",def_range"`
	Snapshot *hcl.Attribute `hcl:"snapshot"`
	Check    *hcl.Attribute `hcl:"check"`
	Timeout  *hcl.Attribute `hcl:"timeout"`
}

type simulationSchema struct {
	At          hcl.Range      `hcl:",def_range"`
	Rules       *hcl.Attribute `hcl:"rules"`
	Wasm        *hcl.Attribute `hcl:"wasm"`
	Exec        *hcl.Attribute `hcl:"exec"`
	Compatible  *hcl.Attribute `hcl:"compatible"`
	Refuse      *hcl.Attribute `hcl:"refuse"`
	Observe     *hcl.Attribute `hcl:"observe"`
	RetireAfter *hcl.Attribute `hcl:"retire_after"`
	MemoryMax   *hcl.Attribute `hcl:"memory_max"`
	Timeout     *hcl.Attribute `hcl:"timeout"`
}

type scheduleSchema struct {
	At             hcl.Range        `hcl:",def_range"`
	Strategy       *hcl.Attribute   `hcl:"strategy"`
	MaxUnavailable *hcl.Attribute   `hcl:"max_unavailable"`
	Waves          []waveSchema     `hcl:"wave,block"`
	Rate           *hcl.Attribute   `hcl:"rate"`
	Spread         *hcl.Attribute   `hcl:"spread"`
	SpreadMax      *hcl.Attribute   `hcl:"spread_max"`
	OnFailure      *onFailureSchema `hcl:"on_failure,block"`
	Progress       *hcl.Attribute   `hcl:"progress_deadline"`
	HoldTimeout    *hcl.Attribute   `hcl:"hold_timeout"`
	Windows        []windowSchema   `hcl:"window,block"`
	After          *hcl.Attribute   `hcl:"after"`
	When           *hcl.Attribute   `hcl:"when"`
	HoldIf         *hcl.Attribute   `hcl:"hold_if"`
}

type factSchema struct {
	At         hcl.Range      `hcl:",def_range"`
	Name       string         `hcl:"name,label"`
	NameAt     hcl.Range      `hcl:"name,label_range"`
	HTTP       *hcl.Attribute `hcl:"http"`
	Service    *hcl.Attribute `hcl:"service"`
	Pointer    *hcl.Attribute `hcl:"pointer"`
	Prometheus *hcl.Attribute `hcl:"prometheus"`
	Exec       *hcl.Attribute `hcl:"exec"`
	Every      *hcl.Attribute `hcl:"every"`
	Timeout    *hcl.Attribute `hcl:"timeout"`
	Step       *hcl.Attribute `hcl:"step"`
}

type windowSchema struct {
	At       hcl.Range      `hcl:",def_range"`
	Days     *hcl.Attribute `hcl:"days"`
	Start    *hcl.Attribute `hcl:"start"`
	Length   *hcl.Attribute `hcl:"length"`
	Timezone *hcl.Attribute `hcl:"timezone"`
}

type waveSchema struct {
	At      hcl.Range      `hcl:",def_range"`
	Count   *hcl.Attribute `hcl:"count"`
	Percent *hcl.Attribute `hcl:"percent"`
	Labels  *hcl.Attribute `hcl:"labels"`
	Each    *hcl.Attribute `hcl:"each"`
	Soak    *hcl.Attribute `hcl:"soak"`
}

type onFailureSchema struct {
	At   hcl.Range      `hcl:",def_range"`
	Max  *hcl.Attribute `hcl:"max"`
	Then *hcl.Attribute `hcl:"then"`
}

// laterSchema is a block whose content nobody looks at yet.
type laterSchema struct {
	At   hcl.Range `hcl:",def_range"`
	Rest hcl.Body  `hcl:",remain"`
}
