package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"os"

	"moult/store/bundle"
)

// AgentSpec is the agent block.
type AgentSpec struct {
	Artifacts       []ArtifactSpec // sorted by platform
	MaxUnavailable  string
	HealthyDeadline bundle.Duration
}

func (d *decoder) agent(s *agentSchema) *AgentSpec {
	out := &AgentSpec{Artifacts: d.artifacts(s.Artifacts, s.At, "An agent block"), MaxUnavailable: defaultMaxUnavailable}
	for i := range s.Artifacts {
		if name := s.Artifacts[i].Name; name != nil {
			d.fail(name.NameRange, "Needless name", "On the nodes the program of an agent is always called %s.", bundle.AgentProgram)
		}
	}
	for i := range out.Artifacts {
		out.Artifacts[i].Name = bundle.AgentProgram
	}
	if s.MaxUnavailable != nil {
		out.MaxUnavailable = d.maxUnavailable(s.MaxUnavailable)
	}
	out.HealthyDeadline = d.duration(s.HealthyDeadline, defaultAgentDeadline, bundle.MinAgentDeadline, bundle.MaxAgentDeadline)
	return out
}

// checkAgent looks whether each artifact of the agent is a program for its platform: a wrong
// one would be tried on a node, and given up there.
func (b *builder) checkAgent() {
	if b.spec.Agent == nil {
		return
	}
	for _, a := range b.spec.Agent.Artifacts {
		path, info := b.source(a)
		if info == nil {
			continue
		}
		problem := ""
		switch {
		case !info.Mode().IsRegular():
			problem = "it is no plain file"
		case info.Mode()&0o111 == 0 && a.OS != "windows":
			problem = "it may not be executed; set its mode with chmod +x"
		default:
			problem = checkHeader(path, a.Platform)
		}
		if problem != "" {
			b.fail(a.at, "Bad agent", "%s is no agent for %s: %s.", path, a.Platform, problem)
		}
	}
}

// agent packs the artifacts of the agent.
func (b *builder) agent(ctx context.Context) (*bundle.AgentUpgrade, error) {
	if b.spec.Agent == nil {
		return nil, nil
	}
	u := &bundle.AgentUpgrade{MaxUnavailable: b.spec.Agent.MaxUnavailable, HealthyDeadline: b.spec.Agent.HealthyDeadline}
	for _, a := range b.spec.Agent.Artifacts {
		p, err := b.pack(ctx, "", a)
		if err != nil {
			return nil, err
		}
		if p == nil {
			continue
		}
		program, err := p.only()
		if err != nil {
			return nil, fmt.Errorf("read the agent for %s again: %w", a.Platform, err)
		}
		u.Artifacts = append(u.Artifacts, bundle.AgentArtifact{Artifact: p.Artifact, Program: program})
	}
	return u, nil
}

// only returns the digest of the one file in the tar: of what was packed, not of what lies
// at its path by now.
func (p *packed) only() (bundle.Digest, error) {
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return bundle.Digest{}, err
	}
	r := tar.NewReader(p.file)
	if _, err := r.Next(); err != nil {
		return bundle.Digest{}, err
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, r); err != nil {
		return bundle.Digest{}, err
	}
	return bundle.Digest(hash.Sum(nil)), nil
}

// Machines that executables name, by Go's names. For a platform that is not listed it is
// only looked whether the file is an executable of its system's kind.
var (
	elfMachines = map[string]elf.Machine{
		"386": elf.EM_386, "amd64": elf.EM_X86_64, "arm": elf.EM_ARM, "arm64": elf.EM_AARCH64, "loong64": elf.EM_LOONGARCH,
		"mips": elf.EM_MIPS, "mipsle": elf.EM_MIPS, "mips64": elf.EM_MIPS, "mips64le": elf.EM_MIPS,
		"ppc64": elf.EM_PPC64, "ppc64le": elf.EM_PPC64, "riscv64": elf.EM_RISCV, "s390x": elf.EM_S390,
	}
	machoCPUs  = map[string]macho.Cpu{"amd64": macho.CpuAmd64, "arm64": macho.CpuArm64}
	peMachines = map[string]uint16{"386": pe.IMAGE_FILE_MACHINE_I386, "amd64": pe.IMAGE_FILE_MACHINE_AMD64, "arm64": pe.IMAGE_FILE_MACHINE_ARM64}
)

// checkHeader reports why the file at path cannot be a program for a platform; "" where
// nothing speaks against it.
func checkHeader(path string, p bundle.Platform) (problem string) {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer func() {
		if err := f.Close(); err != nil && problem == "" {
			problem = err.Error()
		}
	}()
	var kind string
	var machine, want any
	switch known := false; p.OS {
	case "darwin", "ios":
		kind = "a Mach-O executable"
		x, bad := macho.NewFile(f)
		if err = bad; err == nil && x.Type != macho.TypeExec {
			err = errors.New("another type of file")
		}
		if err == nil {
			machine = x.Cpu
		}
		if want, known = machoCPUs[p.Arch]; !known {
			want = machine
		}
	case "windows":
		kind = "a PE executable"
		x, bad := pe.NewFile(f)
		if err = bad; err == nil {
			machine = x.Machine
		}
		if want, known = peMachines[p.Arch]; !known {
			want = machine
		}
	default:
		kind = "an ELF executable"
		x, bad := elf.NewFile(f)
		if err = bad; err == nil && x.Type != elf.ET_EXEC && x.Type != elf.ET_DYN {
			err = errors.New("another type of file")
		}
		if err == nil {
			machine = x.Machine
		}
		if want, known = elfMachines[p.Arch]; !known {
			want = machine
		}
	}
	switch {
	case err != nil:
		return fmt.Sprintf("it is not %s", kind)
	case machine != want:
		return fmt.Sprintf("it is for %v, want %v", machine, want)
	}
	return ""
}
