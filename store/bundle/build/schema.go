package build

import "github.com/hashicorp/hcl/v2"

// The shape of upgrade.hcl for gohcl. Attributes stay unevaluated: decoder
// evaluates each where its rules are known, and so can point at it. Fields
// under "later" belong to the language but not to this moult.

type fileSchema struct {
	Release *releaseSchema `hcl:"release,block"`
}

type releaseSchema struct {
	At      hcl.Range      `hcl:",def_range"`
	Version *hcl.Attribute `hcl:"version"`
	Classes []classSchema  `hcl:"class,block"`
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
	Past      *simulationSchema `hcl:"past,block"`
	Future    *simulationSchema `hcl:"future,block"`
	Schedule  *scheduleSchema   `hcl:"schedule,block"`
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
	// later
	Object  []laterSchema `hcl:"object,block"`
	Reverse []laterSchema `hcl:"reverse,block"`
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
	OnFailure      *onFailureSchema `hcl:"on_failure,block"`
	HoldTimeout    *hcl.Attribute   `hcl:"hold_timeout"`
	// later
	Window []laterSchema  `hcl:"window,block"`
	When   *hcl.Attribute `hcl:"when"`
	After  *hcl.Attribute `hcl:"after"`
}

type waveSchema struct {
	At      hcl.Range      `hcl:",def_range"`
	Count   *hcl.Attribute `hcl:"count"`
	Percent *hcl.Attribute `hcl:"percent"`
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
