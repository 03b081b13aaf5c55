package recording

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// A journal is frames, one for each interval, of which each stands alone:
//
//	4 bytes  mark
//	4 bytes  how long the content is, little-endian
//	4 bytes  CRC-32C of the length and the content
//	content  rows as JSON, compressed with zstd
//
// What was cut or damaged ends with the next mark that has a good frame.
var mark = []byte{0xc3, 'c', 'u', 'l'}

const (
	headLength = 12
	// mostContent is more than an interval comes to: nobody allocates what a damaged length says.
	mostContent = 16 << 20
	mostRows    = 256 << 20 // of the JSON
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(length, content []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, content)
}

// journal is one that is written.
type journal struct {
	file *os.File
	size int64 // of the frames that are whole
	zip  *zstd.Encoder
}

func createJournal(path string) (*journal, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("preparing a journal: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("making a journal: %w", err)
	}
	return &journal{file: file, zip: zip}, nil
}

// append writes a frame, which is on the disk when it returns. After an error the journal is as it was before.
func (j *journal) append(r *rows) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding an interval: %w", err)
	}
	frame := j.zip.EncodeAll(text, append(make([]byte, 0, headLength+len(text)/4), make([]byte, headLength)...))
	content := frame[headLength:]
	if len(content) > mostContent {
		return fmt.Errorf("encoding an interval: it is %d bytes, of at most %d", len(content), mostContent)
	}
	copy(frame, mark)
	binary.LittleEndian.PutUint32(frame[4:], uint32(len(content)))
	binary.LittleEndian.PutUint32(frame[8:], checksum(frame[4:8], content))
	_, err = j.file.WriteAt(frame, j.size)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		// What is left of it would do no harm, but take room that there is none of.
		j.file.Truncate(j.size)
		return fmt.Errorf("writing to the journal: %w", err)
	}
	j.size += int64(len(frame))
	return nil
}

func (j *journal) close() error { return j.file.Close() }

// Damage is a part of a journal that is no frame.
type Damage struct {
	File          string
	Offset, Bytes int64
}

func (d Damage) String() string {
	return fmt.Sprintf("%s: %d bytes from %d on are damaged", d.File, d.Bytes, d.Offset)
}

// readJournal calls each for the frames of a journal, and tells of what is none.
func readJournal(path string, each func(*rows) error) (damage []Damage, err error) {
	all, err := os.ReadFile(path) // of an hour, or less
	if err != nil {
		return nil, fmt.Errorf("reading a journal: %w", err)
	}
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(mostRows))
	if err != nil {
		return nil, fmt.Errorf("reading a journal: %w", err)
	}
	defer unzip.Close()
	lost := func(from, to int) {
		if to > from {
			damage = append(damage, Damage{path, int64(from), int64(to - from)})
		}
	}
	good := 0 // the end of the last frame
	patience := mostChecks * len(all)
	for at := 0; at < len(all) && patience >= 0; {
		content, ok := frameAt(all[at:])
		var r rows
		if ok {
			ok = decode(unzip, content, &r) == nil
		}
		if !ok {
			patience -= len(content)
			next := bytes.Index(all[at+1:], mark)
			if next < 0 {
				break
			}
			at += 1 + next
			continue
		}
		lost(good, at)
		if err := each(&r); err != nil {
			return damage, err
		}
		at += headLength + len(content)
		good = at
	}
	lost(good, len(all))
	return damage, nil
}

// mostChecks is how often, on average, a byte is looked at that belongs to no good frame: somebody can have made a journal of marks.
const mostChecks = 16

// frameAt is the content of the frame that b begins with, if it does, or seems to.
func frameAt(b []byte) (content []byte, ok bool) {
	if len(b) < headLength || !bytes.HasPrefix(b, mark) {
		return nil, false
	}
	length := binary.LittleEndian.Uint32(b[4:])
	if length > mostContent || int(length) > len(b)-headLength {
		return nil, false
	}
	content = b[headLength : headLength+length]
	return content, checksum(b[4:8], content) == binary.LittleEndian.Uint32(b[8:])
}

func decode(unzip *zstd.Decoder, content []byte, r *rows) error {
	text, err := unzip.DecodeAll(content, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, r); err != nil {
		return err
	}
	if len(r.Intervals) != 1 {
		return io.ErrUnexpectedEOF
	}
	for _, t := range tables {
		t.stamp(r, r.Intervals[0].End)
	}
	return nil
}
