// Package metrics shows what one agent knows as metrics for Prometheus: its own node's
// phase, health and calls, and the rollout as this agent sees it. docs/metrics.md lists
// them, and is compared with the code by a test.
//
// Names and units follow Prometheus' conventions: base units (seconds, bytes), "_total" for
// what only grows, since the agent began. A label has few values: services and classes are the
// cluster's own, and versions of callers those that the node has answered. Nodes more than
// maxVersions behind share the version "older"; no counter does, whose past would move into it.
// No label names a node, but for the agent's own in moult_agent_info.
//
// A scrape shows one status of the agent, so that its figures belong together, which is at
// most a second old: whoever reaches the port must not keep the agent busy. Where the
// agent cannot answer, the scrape fails whole, and says why.
package metrics
