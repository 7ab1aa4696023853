package archive

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"moult/store/bundle"
)

// ErrCorrupt is a file that is not, byte for byte, what this package writes:
// cut short, changed, made by something else, or at odds with its own signed
// metadata.
var ErrCorrupt = errors.New("damaged, or not written by moult")

// Names of the entries, in their order.
const (
	rootsPrefix   = "metadata/roots/"
	timestampName = "metadata/timestamp.json"
	snapshotName  = "metadata/snapshot.json"
	targetsName   = "metadata/targets.json"
	operatorName  = "metadata/operator.json"
	releasePrefix = "releases/"
	orderPrefix   = "rollouts/"
	blobPrefix    = "blobs/sha256/"
	jsonSuffix    = ".json"
)

func numbered(prefix string, n uint64) string {
	return prefix + strconv.FormatUint(n, 10) + jsonSuffix
}

// parseNumbered is the inverse of numbered; there is one name for one number.
func parseNumbered(prefix, name string) (bundle.Version, bool) {
	n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(name, prefix), jsonSuffix), 10, 64)
	return bundle.Version(n), err == nil && name == numbered(prefix, n)
}

func blobName(d bundle.Digest) string { return blobPrefix + d.Hex() }

// requiredBlobs returns every blob that a manifest names, by rising digest.
func requiredBlobs(m *bundle.Manifest) []bundle.Chunk {
	var all []bundle.Chunk
	for _, a := range m.Software() {
		all = append(all, a.Chunks...)
	}
	for _, c := range m.Classes {
		all = append(all, c.ObjectFiles()...)
	}
	slices.SortFunc(all, compareChunks)
	// A valid manifest gives one length to one digest.
	return slices.Compact(all)
}

func compareChunks(a, b bundle.Chunk) int { return bytes.Compare(a.Digest[:], b.Digest[:]) }

const blockBytes = 512

// roundUp returns n rounded up to whole blocks.
func roundUp(n int64) int64 { return (n + blockBytes - 1) / blockBytes * blockBytes }

// Fields of a ustar header (POSIX.1-1988), as offset and end.
const (
	nameEnd                 = 100
	modeStart, modeEnd      = 100, 108
	uidStart, uidEnd        = 108, 116
	gidStart, gidEnd        = 116, 124
	sizeStart, sizeEnd      = 124, 136
	mtimeStart, mtimeEnd    = 136, 148
	checkStart, checkEnd    = 148, 156
	typeflag                = 156
	magicStart, magicEnd    = 257, 265
	devmajorStart, majorEnd = 329, 337
	devminorStart, minorEnd = 337, 345
)

// header returns the one header that an entry may have: mode 0644, owner 0,
// time 0, plain file. It does not come from archive/tar because Open compares
// it byte for byte, and another release of Go might write it another way.
func header(name string, size int64) [blockBytes]byte {
	var h [blockBytes]byte
	copy(h[:nameEnd], name)
	octal(h[modeStart:modeEnd], 0o644)
	octal(h[uidStart:uidEnd], 0)
	octal(h[gidStart:gidEnd], 0)
	octal(h[sizeStart:sizeEnd], size)
	octal(h[mtimeStart:mtimeEnd], 0)
	h[typeflag] = '0'
	copy(h[magicStart:magicEnd], "ustar\x0000")
	octal(h[devmajorStart:majorEnd], 0)
	octal(h[devminorStart:minorEnd], 0)
	// The checksum counts its own field as spaces.
	copy(h[checkStart:checkEnd], "        ")
	sum := int64(0)
	for _, b := range h {
		sum += int64(b)
	}
	octal(h[checkStart:checkEnd-1], sum) // six digits, zero, space
	return h
}

// octal fills a field with digits and one zero byte.
func octal(field []byte, n int64) {
	copy(field, fmt.Sprintf("%0*o\x00", len(field)-1, n))
}

// parseHeader returns the name and size for which header writes block.
func parseHeader(block *[blockBytes]byte) (name string, size int64, err error) {
	name = text(block[:nameEnd])
	size, err = strconv.ParseInt(text(block[sizeStart:sizeEnd]), 8, 64)
	if err != nil || size < 0 || name == "" || header(name, size) != *block {
		if kind := block[typeflag]; kind != '0' && string(block[magicStart:magicStart+5]) == "ustar" {
			return "", 0, fmt.Errorf("entry %.120q has type %q: a bundle holds plain files only", name, kind)
		}
		return "", 0, fmt.Errorf("not a header of a bundle's entry (name %.120q)", name)
	}
	return name, size, nil
}

// text returns a field up to its first zero byte.
func text(field []byte) string {
	s, _, _ := strings.Cut(string(field), "\x00")
	return s
}
