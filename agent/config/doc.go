// Package config is what an agent is told by its agent.hcl: a value ([Config]), its
// defaults ([Default]), the file's form ([Load]), and what no agent could work with
// ([Config.Validate], which touches neither files nor network). Paths are absolute or
// relative to the file's folder; ${…} in commands stays as it is, for it is known only
// when the software starts.
package config
