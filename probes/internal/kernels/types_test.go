package main

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestPayload(t *testing.T) {
	image := make([]byte, 3*512+100)
	copy(image[0x202:], "HdrS")
	image[0x1f1] = 2
	binary.LittleEndian.PutUint32(image[0x248:], 10)
	binary.LittleEndian.PutUint32(image[0x24c:], 20)
	copy(image[3*512+10:], "sixteen bytes...size")
	got, err := payload(image)
	if err != nil || !bytes.Equal(got, []byte("sixteen bytes...")) {
		t.Errorf("got %q, %v", got, err)
	}
	binary.LittleEndian.PutUint32(image[0x24c:], 91)
	if _, err := payload(image); err == nil {
		t.Error("a kernel longer than its file was not noticed")
	}
	image[0x202] = 0
	if _, err := payload(image); err == nil {
		t.Error("took any file for a kernel")
	}
}
