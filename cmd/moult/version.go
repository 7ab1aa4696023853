package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store"
	"moult/store/bundle"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "tell what this program was built from",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.App.Writer, thisBuild())
			}
			return thisBuild().print(c.App.Writer)
		},
	}
}

// buildReport is `moult version -o json`. What the program does not know of its
// own build is null.
type buildReport struct {
	// Version is the module's, by its tag or commit.
	Version *string `json:"version"`
	Commit  *string `json:"commit"`
	// Date is the commit's, as RFC 3339.
	Date *string `json:"date"`
	// Modified tells whether the tree had changes that are in no commit.
	Modified *bool           `json:"modified"`
	Go       string          `json:"go"`
	Platform bundle.Platform `json:"platform"`
	Formats  formats         `json:"formats"`
}

// formats are the newest of each that the program reads. It reads all before them, too, and
// writes the oldest that will do.
type formats struct {
	Release int `json:"release"` // its manifest
	Order   int `json:"order"`
	Record  int `json:"record"` // of a node
	Journal int `json:"journal"`
	Floor   int `json:"floor"`
}

var ownFormats = formats{
	Release: bundle.NewestFormat, Order: schedule.NewestFormat, Record: view.RecordFormat, Journal: store.JournalFormat, Floor: store.FloorFormat,
}

func thisBuild() buildReport {
	info, _ := debug.ReadBuildInfo()
	return buildOf(info)
}

// buildOf reads what the go command has put into a program; nil where it is
// not there.
func buildOf(info *debug.BuildInfo) buildReport {
	r := buildReport{Formats: ownFormats, Go: runtime.Version(), Platform: bundle.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH}}
	if info == nil {
		return r
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		r.Version = &v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			r.Commit = &s.Value
		case "vcs.time":
			r.Date = &s.Value
		case "vcs.modified":
			modified := s.Value == "true"
			r.Modified = &modified
		}
	}
	return r
}

func (r buildReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "moult\t%s\n", orUnknown(r.Version))
	fmt.Fprintf(w, "commit\t%s\n", orUnknown(r.Commit))
	fmt.Fprintf(w, "date\t%s\n", orUnknown(r.Date))
	tree := "as committed"
	switch {
	case r.Modified == nil:
		tree = unknown
	case *r.Modified:
		tree = "modified: there were changes in no commit"
	}
	fmt.Fprintf(w, "tree\t%s\n", tree)
	fmt.Fprintf(w, "built by\t%s for %s\n", r.Go, r.Platform)
	f := r.Formats
	fmt.Fprintf(w, "formats\trelease %d, order %d, record %d, journal %d, floor %d, and those before\n", f.Release, f.Order, f.Record, f.Journal, f.Floor)
	if r.Commit == nil {
		fmt.Fprintf(w, "`go build` in a git clone records these; `go run`, `go test` and -buildvcs=false do not\n")
	}
	return w.Flush()
}

const unknown = "not known"

func orUnknown(s *string) string {
	if s == nil {
		return unknown
	}
	return *s
}
