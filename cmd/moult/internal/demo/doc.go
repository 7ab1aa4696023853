// Package demo plays a whole upgrade on this machine: real agents, real nodes of
// the sample system, clients of both versions that go on calling, and the figures
// of it in a [Report]. It alone knows the sample system, whose nodes are this very
// binary ([SampleNode]), so that no Go toolchain is needed.
package demo
