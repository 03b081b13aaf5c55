package main

import (
	"slices"
	"testing"
)

func TestFollow(t *testing.T) {
	const dependencies = `linux-image-cloud-amd64
  Depends: linux-base-cloud-amd64
  Depends: linux-image-7-cloud-amd64
linux-base-cloud-amd64
linux-image-7-cloud-amd64
  PreDepends: linux-base
 |Depends: dracut
  Depends: <linux-initramfs-tool>
    dracut
    linux-image-extra
  Depends: linux-binary-7-cloud-amd64
  Depends: linux-modules-7-cloud-amd64
dracut
  Depends: linux-image-other
linux-binary-7-cloud-amd64
  Depends: linux-image-7-cloud-amd64
`
	want := []string{"linux-image-cloud-amd64", "linux-image-7-cloud-amd64", "linux-binary-7-cloud-amd64", "linux-modules-7-cloud-amd64"}
	if got := follow(dependencies, "linux-image-cloud-amd64"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSignedBy(t *testing.T) {
	const paragraphs = `# a comment

Types: deb
URIs: http://mirror.example/other
Signed-By: /keys/other.gpg

Types: deb
# Signed-By: /keys/old.gpg
URIs: http://mirror.example/debian
Suites: stable
Signed-By: /keys/debian.gpg

Types: deb
URIs: http://mirror.example/third
`
	const lines = `# deb [signed-by=/keys/old.gpg] http://mirror.example/old stable main
deb [signed-by=/keys/other.gpg] http://mirror.example/other stable main
deb [arch=amd64 signed-by=/keys/debian.gpg,/keys/more.gpg] http://mirror.example/debian stable main
deb http://mirror.example/third stable main
`
	for _, c := range []struct {
		sources string
		number  int
		want    string
	}{
		{paragraphs, 1, " signed-by=/keys/other.gpg"},
		{paragraphs, 2, " signed-by=/keys/debian.gpg"},
		{paragraphs, 3, ""},
		{paragraphs, 4, ""},
		{lines, 2, " signed-by=/keys/other.gpg"},
		{lines, 3, " signed-by=/keys/debian.gpg"},
		{lines, 4, ""},
	} {
		if got := signedBy(c.sources, c.number); got != c.want {
			t.Errorf("entry %d of %.20q: got %q, want %q", c.number, c.sources, got, c.want)
		}
	}
}
