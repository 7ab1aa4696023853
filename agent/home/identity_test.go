package home

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestIdentityFlips: a key in which the disk has flipped a bit makes no other node.
func TestIdentityFlips(t *testing.T) {
	dir := t.TempDir()
	key, made, err := loadIdentity(dir)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, IdentityFile))
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for bit := range 8 * len(data) {
		flipped := bytes.Clone(data)
		flipped[bit/8] ^= 1 << (bit % 8)
		got, err := parseIdentity(flipped)
		if err != nil {
			refused++
		} else if !got.Equal(key) {
			t.Errorf("bit %d of byte %d, in %.20q: another node", bit%8, bit/8, data[bit/8:])
		}
	}
	if refused < 8*64 {
		t.Errorf("%d flips are refused, so this shows little", refused)
	}
}
