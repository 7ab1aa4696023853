// Package unit makes a configuration of an agent from a unit of systemd, for software that
// systemd has run until now.
//
// [Find] names the unit's files: asked of systemd where it runs, which knows them and their
// drop-ins in order. [Convert] reads them, as systemd does: later files and lines go over earlier
// ones, an empty value takes back what was said before, specifiers (%i) stand for what they do.
// What is said that agent.hcl has nothing like is in the [Result]'s Notes, each with its
// place: nothing is lost silently. Only what describes a unit to people, and [Install], is
// left out.
package unit
