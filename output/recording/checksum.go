package recording

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// Parquet has checksums of pages, but none of what says where they are and how much memory they need: readers trust that. So a table
// has one of all of it, in its metadata, made with zeros in its own place.
const (
	sumName  = "culprit.checksum"
	sumBegin = "CRC-32C of the file with eight zeros here: "
	noSum    = "00000000"
)

var errDamaged = errors.New("it is damaged, or not culprit's: its checksum is another one")

func sumOf(parts ...[]byte) string {
	sum := uint32(0)
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return fmt.Sprintf("%08x", sum)
}

// sumAt is where the checksum of a table is, 0 if nowhere.
func sumAt(table []byte) int {
	at := bytes.LastIndex(table, []byte(sumBegin)) + len(sumBegin)
	if at < len(sumBegin) || at+len(noSum) > len(table) {
		return 0
	}
	return at
}

// writeSum completes a table.
func writeSum(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("summing %s: %w", file.Name(), err)
	}
	table := make([]byte, info.Size())
	if _, err := io.ReadFull(io.NewSectionReader(file, 0, info.Size()), table); err != nil {
		return fmt.Errorf("summing %s: %w", file.Name(), err)
	}
	if _, err := file.WriteAt([]byte(sumOf(table)), int64(sumAt(table))); err != nil {
		return fmt.Errorf("summing %s: %w", file.Name(), err)
	}
	return nil
}

// checkSum is whether a table is as it was written.
func checkSum(table []byte) error {
	at := sumAt(table)
	if at == 0 || sumOf(table[:at], []byte(noSum), table[at+len(noSum):]) != string(table[at:at+len(noSum)]) {
		return errDamaged
	}
	return nil
}
