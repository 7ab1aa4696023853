// Package stray finds processes by what stands in the environment that they were
// started with, and ends them: children that left the process group of the program
// that began them, or outlived it. An entry is "NAME=value", whole. Only processes of
// this process's own user count, and of such users as a caller names.
//
// It needs Linux. Elsewhere environments cannot be read: nothing is found, and
// nothing ended.
package stray
