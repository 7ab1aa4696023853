// Package docs has the pages of this folder that the command line shows, so that they are at
// hand where moult is. A topic is a page, or some sections of one.
package docs

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed operations.md schedules.md simulation.md
var pages embed.FS

// topic says where something is told.
type topic struct {
	name, page string
	// sections are the headings of those that tell it; none: all of the page. "" is what
	// stands before the first.
	sections []string
}

var topics = []topic{
	{name: "objects", page: "simulation.md", sections: []string{"", "Which kind", "What the layer does around your objects", "A list to go through"}},
	{name: "schedule", page: "schedules.md"},
	{name: "trust", page: "operations.md", sections: []string{"Keys and who holds them", "Who belongs to the cluster", "When two people sign at once"}},
}

// Topics are the names of all topics, in their order.
func Topics() (names []string) {
	for _, t := range topics {
		names = append(names, t.name)
	}
	return names
}

// Topic is the text of a topic, in Markdown; an error where there is none of that name.
func Topic(name string) (string, error) {
	for _, t := range topics {
		if t.name == name {
			return t.text()
		}
	}
	return "", fmt.Errorf("there is no topic %q", name)
}

func (t topic) text() (string, error) {
	page, err := pages.ReadFile(t.page)
	if err != nil {
		return "", err
	}
	if t.sections == nil {
		return string(page), nil
	}
	var text strings.Builder
	for _, heading := range t.sections {
		s, ok := section(string(page), heading)
		if !ok {
			return "", fmt.Errorf("docs/%s has no section %q", t.page, heading)
		}
		text.WriteString(s)
	}
	fmt.Fprintf(&text, "More of it: docs/%s\n", t.page)
	return text.String(), nil
}

// section is a section of a page with its heading.
func section(page, heading string) (string, bool) {
	const mark = "\n## "
	if heading == "" {
		head, _, _ := strings.Cut(page, mark)
		return head + "\n", true
	}
	_, after, ok := strings.Cut(page, mark+heading+"\n")
	if !ok {
		return "", false
	}
	body, _, _ := strings.Cut(after, mark)
	return mark[1:] + heading + "\n" + strings.TrimRight(body, "\n") + "\n\n", true
}
