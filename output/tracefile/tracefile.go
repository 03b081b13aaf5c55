// Package tracefile writes traces to files of all forms, and reads them up to where they were cut.
package tracefile

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"culprit/output/jsonl"
	"culprit/output/parquet"
	"culprit/output/perfetto"
	"culprit/probes/snapshot"
)

// Parquet is the format that is a directory.
const Parquet = "parquet"

// Formats are what a trace can be written as, and what the names of such files end in.
var Formats = []string{"pftrace", "pftrace.gz", "jsonl", "jsonl.gz", Parquet}

// FormatOf is the format of a file with this name, "" for none.
func FormatOf(path string) string {
	for _, format := range Formats {
		if strings.HasSuffix(path, "."+format) {
			return format
		}
	}
	return ""
}

type writer interface {
	Write(snapshot.Trace) error
	Close() error
}

// Writer writes one trace. What an error leaves can be read.
type Writer struct {
	events writer
	zip    *gzip.Writer  // nil: it is not compressed
	buffer *bufio.Writer // nil: it is a directory
	to     io.Writer
	file   *os.File // to, if it is to be closed
	size   uint64   // bytes that have reached it
	whole  uint64   // of them, those up to the end of a Write
	failed bool
}

// Create makes a file or directory. A file that is there is overwritten, a directory must be empty.
func Create(path, format string) (*Writer, error) {
	if format == Parquet {
		w, err := parquet.New(path)
		return &Writer{events: w}, err
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	w, err := New(file, format)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	w.file = file
	return w, nil
}

// New writes to something that stays open, in a format that is no directory.
func New(to io.Writer, format string) (w *Writer, err error) {
	w = &Writer{to: to}
	w.buffer = bufio.NewWriterSize(counter{w}, 1<<20)
	to = w.buffer
	kind, compressed := strings.CutSuffix(format, ".gz")
	if compressed {
		if w.zip, err = gzip.NewWriterLevel(w.buffer, gzip.BestSpeed); err != nil {
			return nil, err
		}
		to = w.zip
	}
	if kind == "jsonl" {
		w.events = jsonl.New(to)
		return w, nil
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("reading the kernel's release: %w", err)
	}
	w.events, err = perfetto.New(to, perfetto.Head{
		Release: unix.ByteSliceToString(name.Release[:]), Machine: unix.ByteSliceToString(name.Machine[:]),
	})
	return w, err
}

// counter is the end of the chain.
type counter struct{ w *Writer }

func (c counter) Write(p []byte) (int, error) {
	n, err := c.w.to.Write(p)
	c.w.size += uint64(n)
	return n, err
}

// Size is how many bytes there are by now; 0 for a directory.
func (w *Writer) Size() uint64 { return w.size }

// Write adds events, and brings them to the file. After an error, only Close may follow.
func (w *Writer) Write(t snapshot.Trace) error {
	if err := w.events.Write(t); err != nil {
		w.failed = true
		return err
	}
	if err := w.flush(); err != nil {
		w.failed = true
		return err
	}
	w.whole = w.size
	return nil
}

// flush makes a reader see all that was written.
func (w *Writer) flush() error {
	if w.zip != nil {
		if err := w.zip.Flush(); err != nil {
			return err
		}
	}
	if w.buffer == nil {
		return nil
	}
	return w.buffer.Flush()
}

// Close ends the trace. Of a file, what was not written as a whole is cut off.
func (w *Writer) Close() error {
	err := w.end()
	if w.file == nil {
		return err
	}
	if w.failed || err != nil {
		if info, failed := w.file.Stat(); failed == nil && info.Mode().IsRegular() {
			err = errors.Join(err, w.file.Truncate(int64(w.whole)))
		}
	}
	return errors.Join(err, w.file.Close())
}

func (w *Writer) end() error {
	if w.failed { // what it says was told of already
		return nil
	}
	if err := w.events.Close(); err != nil {
		return err
	}
	if w.zip != nil {
		if err := w.zip.Close(); err != nil {
			return err
		}
	}
	if w.buffer == nil {
		return nil
	}
	return w.buffer.Flush()
}

// Lacks are the kinds of events that a file with this name has not, whatever was traced.
func Lacks(path string) []string {
	if strings.HasPrefix(FormatOf(path), "pftrace") {
		return perfetto.Lacks
	}
	return nil
}

// Read calls each for the parts of a trace, as far as a file that was cut goes.
func Read(path string, each func(snapshot.Trace) error) error {
	format := FormatOf(path)
	kind, compressed := strings.CutSuffix(format, ".gz")
	read := perfetto.Read
	switch kind {
	case Parquet:
		return parquet.Read(path, each)
	case "jsonl":
		read = jsonl.Read
	case "":
		return fmt.Errorf("reading %s: give a trace whose name ends in .%s", path, strings.Join(Formats, ", ."))
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	var content io.Reader = bufio.NewReaderSize(file, 1<<20)
	if compressed {
		if content, err = gzip.NewReader(content); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		content = cut{content}
	}
	if err := read(content, each); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// cut ends where a compressed file was cut.
type cut struct{ io.Reader }

func (c cut) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}
