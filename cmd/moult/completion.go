package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"moult/docs"
)

// Scripts that have a shell ask moult how a command line may go on.
var (
	//go:embed completion/moult.bash
	bashCompletion string
	//go:embed completion/moult.zsh
	zshCompletion string
	//go:embed completion/moult.fish
	fishCompletion string
)

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print what completes moult's command lines in a shell", ArgsUsage: "bash|zsh|fish",
		Description: "For bash: source <(moult completion bash), in ~/.bashrc. For zsh: source <(moult completion zsh),\n" +
			"in ~/.zshrc after compinit. For fish: moult completion fish > ~/.config/fish/completions/moult.fish.\n" +
			"Names of nodes come from the agent that MOULT_AGENT or --agent names, if it answers at once.",
		Action: func(c *cli.Context) error {
			shell, err := oneArg(c, "the name of a shell")
			if err != nil {
				return err
			}
			script := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[shell]
			if script == "" {
				return misusef("there is one for bash, zsh and fish", "completion: none is known for %q", shell)
			}
			_, err = io.WriteString(c.App.Writer, script)
			return err
		},
	}
}

// completeTimeout bounds what an agent is asked while somebody waits at a prompt.
const completeTimeout = 500 * time.Millisecond

// anyBundle stands for all files that `moult bundle build` has written: the shell lists them.
const anyBundle = "*.moult"

// completionFlag is the library's own, which shells put last.
const completionFlag = "--generate-bash-completion"

// onlyCompleted keeps what is asked to be completed from being run, which the library does
// once there is a "--": one that is begun, as flags are, goes away, and after another there
// is nothing to tell.
func onlyCompleted(args []string) (kept []string, ok bool) {
	n := len(args) - 1
	if n < 1 || args[n] != completionFlag {
		return args, true
	}
	asked := args[:n]
	if asked[n-1] == "--" {
		asked = asked[:n-1]
	}
	return append(slices.Clone(asked), completionFlag), !slices.Contains(asked, "--")
}

// complete tells how a command line may go on after the words that are there, a line each.
// Nothing means that it is the shell's to find files. What is begun is among the words only
// where it is a flag.
func complete(cmd *cli.Command) cli.BashCompleteFunc {
	flagsAndCommands := cli.DefaultCompleteWithFlags(cmd)
	return func(c *cli.Context) {
		last := os.Args[len(os.Args)-2] // before completionFlag
		name, value, _ := strings.Cut(strings.TrimLeft(last, "-"), "=")
		if strings.HasPrefix(last, "-") && value == "" {
			switch f := valued(cmd, name); {
			case f == nil:
				flagsAndCommands(c)
			case slices.Contains(f.Names(), "o"):
				fmt.Fprint(c.App.Writer, "json\ntext\n")
			}
			return
		}
		switch what := strings.Trim(cmd.ArgsUsage, "[]"); {
		case len(cmd.Subcommands) > 0:
			flagsAndCommands(c)
		case what == "NODE…" || what == "NODE" && c.NArg() == 0:
			completeNodes(c)
		case c.NArg() > 0:
		case what == "BUNDLE":
			fmt.Fprintln(c.App.Writer, anyBundle)
		case cmd.Name == "completion":
			fmt.Fprint(c.App.Writer, "bash\nfish\nzsh\n")
		case cmd.Name == "help":
			fmt.Fprintln(c.App.Writer, strings.Join(docs.Topics(), "\n"))
			for _, known := range c.App.Commands {
				fmt.Fprintln(c.App.Writer, known.Name)
			}
		}
	}
}

// valued is the flag of a name, if a value follows it.
func valued(cmd *cli.Command, name string) cli.Flag {
	for _, f := range cmd.Flags {
		d, ok := f.(cli.DocGenerationFlag)
		if ok && d.TakesValue() && slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// completeNodes names the nodes that the agent knows, or none: nobody is told an error there.
func completeNodes(c *cli.Context) {
	ctx, cancel := context.WithTimeout(c.Context, completeTimeout)
	defer cancel()
	api := client(c)
	defer api.Close()
	s, err := api.Status(ctx, false)
	if err != nil {
		return
	}
	for _, n := range s.Nodes {
		if !slices.Contains(c.Args().Slice(), n.Name) {
			fmt.Fprintln(c.App.Writer, n.Name)
		}
	}
}
