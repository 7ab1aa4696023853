// Package tally counts calls by how they ended, and by the version of their
// caller. All of it is safe for concurrent use, and its zero values are ready.
package tally
