// Package control is the agent's local HTTP/JSON API: the handler that the
// agent serves on a unix socket in its data folder (mode 0600), and the client
// that the command line uses. The types of this file are the wire format;
// fields are only ever added.
package control
