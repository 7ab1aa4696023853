package main

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/cmd/moult/internal/screen"
	"moult/store/bundle"
)

// docs/json.md describes what commands write by -o json, and in which style; TestDocJSON
// compares it with the types.

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "o", Aliases: []string{"output"}, Value: "text", Usage: "`FORMAT` of the output: text or json"}
}

// wantsJSON reads the output flag.
func wantsJSON(c *cli.Context) (bool, error) {
	switch o := c.String("o"); o {
	case "json":
		return true, nil
	case "text":
		return false, nil
	default:
		return false, misusef("use -o text or -o json", "output format %q is not known", o)
	}
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(filled(reflect.ValueOf(v)).Interface())
}

// filled is v with empty lists and maps where it has none: programs need not ask for null.
func filled(v reflect.Value) reflect.Value {
	t := v.Type()
	if ownJSON(t) {
		return v
	}
	n := reflect.New(t).Elem()
	n.Set(v)
	switch t.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			n.Set(reflect.New(t.Elem()))
			n.Elem().Set(filled(v.Elem()))
		}
	case reflect.Struct:
		for i := range t.NumField() {
			if t.Field(i).IsExported() {
				n.Field(i).Set(filled(v.Field(i)))
			}
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return v
		}
		n.Set(reflect.MakeSlice(t, v.Len(), v.Len()))
		for i := range v.Len() {
			n.Index(i).Set(filled(v.Index(i)))
		}
	case reflect.Map:
		n.Set(reflect.MakeMap(t))
		for key, value := range v.Seq2() {
			n.SetMapIndex(key, filled(value))
		}
	}
	return n
}

// ownJSON reports whether a type writes itself.
func ownJSON(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

// outcome is what a command that acts, and shows nothing else, writes by -o json.
type outcome struct {
	// Messages say what was done, and Notes what does not keep it from being done.
	Messages []string `json:"messages"`
	Notes    []string `json:"notes"`
	// Release and Digest are those of the release that it was about.
	Release bundle.Version `json:"release,omitempty"`
	Digest  bundle.Digest  `json:"digest,omitzero"`
	// File is what it wrote, or the folder that it made.
	File string `json:"file,omitempty"`
	// Token is the ID of the join token that it made.
	Token string `json:"token,omitempty"`
	// Status is the cluster's when what was waited for had come.
	Status *control.Status `json:"status,omitempty"`
}

type outcomeKey struct{}

// outcomeOf is where a command is to put what it says; nil: it says it.
func outcomeOf(c *cli.Context) *outcome {
	o, _ := c.Context.Value(outcomeKey{}).(*outcome)
	return o
}

// say tells what was done.
func say(c *cli.Context, format string, args ...any) {
	if o := outcomeOf(c); o != nil {
		o.Messages = append(o.Messages, fmt.Sprintf(format, args...))
		return
	}
	fmt.Fprintf(c.App.ErrWriter, "moult: "+format+"\n", args...)
}

// made tells of which release a command was, besides.
func made(c *cli.Context, release bundle.Version, digest bundle.Digest) {
	if o := outcomeOf(c); o != nil {
		o.Release, o.Digest = release, digest
	}
}

// withOutcome gives -o to a command that has none of its own.
func withOutcome(c *cli.Command) {
	if c.Action == nil || slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), "o") }) {
		return
	}
	act := c.Action
	c.Flags = append(c.Flags, outputFlag())
	c.Action = func(c *cli.Context) error {
		asJSON, err := wantsJSON(c)
		if err != nil {
			return err
		}
		if !asJSON {
			return act(c)
		}
		o := &outcome{}
		c.Context = context.WithValue(c.Context, outcomeKey{}, o)
		if err := act(c); err != nil {
			if o.Status != nil { // it was waited for in vain, and what was done is done
				return errors.Join(err, writeJSON(c.App.Writer, o))
			}
			return err
		}
		return writeJSON(c.App.Writer, o)
	}
}

// failure is how an error is told by -o json: in one line on standard error, the last one.
type failure struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	// Kind is "failed", "misuse", "refused" or "timed_out", and Code the exit code.
	Kind string `json:"kind"`
	Code int    `json:"code"`
}

// tellError writes an error that ends the program, for people or as args ask for it.
func tellError(w io.Writer, args []string, err error) (code int) {
	code, hint := classify(err)
	text := strings.TrimSuffix(err.Error(), ".")
	if asksJSON(args) {
		kind := map[int]string{exitFailed: "failed", exitMisuse: "misuse", exitRefused: "refused", exitTimedOut: "timed_out"}[code]
		line, err := json.Marshal(failure{text, hint, kind, code})
		if err == nil {
			fmt.Fprintf(w, "%s\n", line)
			return code
		}
	}
	fmt.Fprintf(w, "moult: %s\n", screen.Harmless(text))
	if hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
	return code
}

// asksJSON finds -o json where the flags could not be read, too.
func asksJSON(args []string) bool {
	for i, arg := range args {
		if arg == "--" {
			return false
		}
		name, value, given := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if !strings.HasPrefix(arg, "-") || name != "o" && name != "output" {
			continue
		}
		if !given && i+1 < len(args) {
			value = args[i+1]
		}
		return value == "json"
	}
	return false
}
