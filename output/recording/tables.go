package recording

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	parquetzstd "github.com/parquet-go/parquet-go/compress/zstd"
)

// table is one of the fields of rows, which is a file of its own in Parquet.
type table struct {
	name   string
	schema string                                 // as Parquet describes it
	sort   func(*rows)                            // brings them into the order that they have in files, too
	stamp  func(*rows, int64)                     // gives the rows their interval's end
	create func(path string) (tableWriter, error) // begins a file, which is there once it is closed
	// Gives each interval the rows that a file has of it; where rows are of applications, and any are given, those of these alone.
	read func(path string, apps []string, interval func(end int64) *rows) error
}

// compression needs 2 MiB, once: the library's own needs 16 more, and each table has one.
var compression = &codec{encoder: sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(1<<20),
		zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
})}

// codec is zstd as Parquet has it.
type codec struct {
	parquetzstd.Codec
	encoder func() (*zstd.Encoder, error)
}

func (c *codec) Encode(dst, src []byte) ([]byte, error) {
	e, err := c.encoder()
	if err != nil {
		return nil, err
	}
	return e.EncodeAll(src, dst[:0]), nil
}

// tableWriter is a file in the making.
type tableWriter interface {
	write(*rows) error
	close() error // after which it is there, and stays there
	abandon() error
}

// intervals is the table that is written last: where it is, the others of its name are whole.
const intervals = "interval"

// tables are in the order in which they are written.
var tables = []table{
	tableOf("io", func(r *rows) *[]ioRow { return &r.IO }, func(r *ioRow) *int64 { return &r.End },
		func(a, b ioRow) int { return cmp.Or(a.compare(b.identity), strings.Compare(a.Device, b.Device)) }),
	tableOf("io_device", func(r *rows) *[]deviceRow { return &r.Devices }, func(r *deviceRow) *int64 { return &r.End },
		func(a, b deviceRow) int { return strings.Compare(a.Device, b.Device) }),
	tableOf("sched", func(r *rows) *[]schedRow { return &r.Sched }, func(r *schedRow) *int64 { return &r.End },
		func(a, b schedRow) int { return a.compare(b.identity) }),
	tableOf("sched_worst", func(r *rows) *[]waitRow { return &r.Waits }, func(r *waitRow) *int64 { return &r.End }, nil),
	tableOf("tcp", func(r *rows) *[]tcpRow { return &r.TCP }, func(r *tcpRow) *int64 { return &r.End },
		func(a, b tcpRow) int { return a.compare(b.identity) }),
	tableOf("tcp_worst", func(r *rows) *[]stallRow { return &r.Stalls }, func(r *stallRow) *int64 { return &r.End }, nil),
	tableOf("tcp_counter", func(r *rows) *[]counterRow { return &r.Counters }, func(r *counterRow) *int64 { return &r.End },
		func(a, b counterRow) int { return strings.Compare(a.Name, b.Name) }),
	tableOf("loss", func(r *rows) *[]lossRow { return &r.Losses }, func(r *lossRow) *int64 { return &r.End }, nil),
	tableOf(intervals, func(r *rows) *[]interval { return &r.Intervals }, func(r *interval) *int64 { return &r.End }, nil),
}

func tableOf[T any](name string, of func(*rows) *[]T, end func(*T) *int64, order func(a, b T) int) table {
	return table{
		name:   name,
		schema: parquet.NewSchema(name, parquet.SchemaOf(new(T))).String(),
		sort: func(r *rows) {
			if order != nil {
				slices.SortStableFunc(*of(r), order)
			}
		},
		stamp: func(r *rows, at int64) {
			for i := range *of(r) {
				*end(&(*of(r))[i]) = at
			}
		},
		create: func(path string) (tableWriter, error) {
			file, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(0o644))
			if err != nil {
				return nil, fmt.Errorf("making %s: %w", path, err)
			}
			rows := parquet.NewGenericWriter[T](file, parquet.Compression(compression), parquet.PageBufferSize(pageSize),
				parquet.DefaultEncodingFor(parquet.Int64, &parquet.DeltaBinaryPacked),
				parquet.DefaultEncodingFor(parquet.Int32, &parquet.DeltaBinaryPacked))
			return &parquetFile[T]{file: file, rows: rows, of: of, order: order}, nil
		},
		read: func(path string, apps []string, interval func(end int64) *rows) error {
			all, err := readRows[T](path, apps)
			if err != nil {
				return &tableError{path, err}
			}
			for i := range all {
				to := of(interval(*end(&all[i])))
				*to = append(*to, all[i])
			}
			return nil
		},
	}
}

// files are the tables of a time in the making.
type files []tableWriter

// createFiles begins to write tables, in the place of what was begun and not ended.
func createFiles(stem string) (out files, err error) {
	for _, t := range tables {
		path := tablePath(stem, t.name)
		if err := removeUnfinished(path); err != nil {
			return nil, errors.Join(err, out.abandon())
		}
		f, err := t.create(path)
		if err != nil {
			return nil, errors.Join(err, out.abandon())
		}
		out = append(out, f)
	}
	return out, nil
}

func (f files) write(r *rows) error {
	for _, t := range f {
		if err := t.write(r); err != nil {
			return err
		}
	}
	return nil
}

// close brings the tables to the disk, the one that makes them whole as the last.
func (f files) close(stem string) error {
	for _, t := range f {
		if err := t.close(); err != nil {
			return err
		}
	}
	return syncDirs(filepath.Dir(stem))
}

// abandon removes what was not closed.
func (f files) abandon() (err error) {
	for _, t := range f {
		err = errors.Join(err, t.abandon())
	}
	return err
}

// tablePath is the file of a table.
func tablePath(stem, name string) string {
	return filepath.Join(filepath.Dir(stem), name+"-"+filepath.Base(stem)+".parquet")
}

// isWhole says whether there are tables.
func isWhole(stem string) bool {
	_, err := os.Stat(tablePath(stem, intervals))
	return err == nil
}

// readTables calls each for the intervals of tables, in the order of time, with the rows of applications, or all if none are given.
func readTables(stem string, apps []string, each func(*rows) error) error {
	all := map[int64]*rows{}
	var ends []int64
	for _, t := range tables {
		err := t.read(tablePath(stem, t.name), apps, func(end int64) *rows {
			r := all[end]
			if r == nil {
				r = &rows{}
				all[end] = r
				ends = append(ends, end)
			}
			return r
		})
		if err != nil {
			return err
		}
	}
	slices.Sort(ends)
	for _, end := range ends {
		if len(all[end].Intervals) == 0 {
			continue
		}
		if err := each(all[end]); err != nil {
			return err
		}
	}
	return nil
}

// tableError is that a table cannot be read.
type tableError struct {
	path string
	err  error
}

func (e *tableError) Error() string { return fmt.Sprintf("reading %s: %v", e.path, e.err) }
func (e *tableError) Unwrap() error { return e.err }

// readRows are those of a file that are of applications: all if none are given, or if its rows are of none. The library panics on some
// files that others made.
func readRows[T any](path string, apps []string) (out []T, err error) {
	defer func() {
		if v := recover(); v != nil {
			out, err = nil, fmt.Errorf("it is not culprit's: %v", v)
		}
	}()
	whole, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := checkSum(whole); err != nil {
		return nil, err
	}
	file, size := bytes.NewReader(whole), int64(len(whole))
	if len(apps) == 0 {
		return parquet.Read[T](file, size)
	}
	f, err := parquet.OpenFile(file, size)
	if err != nil {
		return nil, err
	}
	column, ok := f.Schema().Lookup("app")
	if !ok {
		return parquet.Read[T](file, size)
	}
	for _, group := range f.RowGroups() {
		spans, err := spansOf(group.ColumnChunks()[column.ColumnIndex], apps)
		if err != nil {
			return nil, err
		}
		if len(spans) == 0 {
			continue
		}
		rows := parquet.NewGenericRowGroupReader[T](group)
		for _, s := range spans {
			part := make([]T, s.n)
			if err := rows.SeekToRow(s.first); err != nil {
				return nil, errors.Join(err, rows.Close())
			}
			n, err := rows.Read(part)
			if n < len(part) && err != nil {
				return nil, errors.Join(err, rows.Close())
			}
			out = append(out, part[:n]...)
		}
		if err := rows.Close(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// rowSpan are rows that follow each other.
type rowSpan struct{ first, n int64 }

// spansOf are the rows of a column that have one of some values.
func spansOf(column parquet.ColumnChunk, wanted []string) (out []rowSpan, err error) {
	pages := column.Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	row, values := int64(0), make([]parquet.Value, 1024)
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		for from := page.Values(); ; {
			n, err := from.ReadValues(values)
			for _, v := range values[:n] {
				if slices.Contains(wanted, string(v.ByteArray())) {
					if last := len(out) - 1; last >= 0 && out[last].first+out[last].n == row {
						out[last].n++
					} else {
						out = append(out, rowSpan{row, 1})
					}
				}
				row++
			}
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
		}
		parquet.Release(page)
	}
}

// readInterval is the last interval of tables.
func readInterval(stem string) (interval, error) {
	path := tablePath(stem, intervals)
	all, err := readRows[interval](path, nil)
	if err != nil {
		return interval{}, &tableError{path, err}
	}
	if len(all) == 0 {
		return interval{}, nil
	}
	return all[len(all)-1], nil
}

// removeUnfinished removes what was to become a file when its process ended.
func removeUnfinished(path string) error {
	left, err := filepath.Glob(globbed(filepath.Join(filepath.Dir(path), "."+filepath.Base(path))) + "*")
	if err != nil {
		return err
	}
	for _, file := range left {
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("removing what is unfinished: %w", err)
		}
	}
	return nil
}

type parquetFile[T any] struct {
	file  *renameio.PendingFile
	rows  *parquet.GenericWriter[T]
	of    func(*rows) *[]T
	order func(a, b T) int // nil: that of time alone
	part  []T
}

// What sealing needs memory for: so many rows are sorted at a time, and written as a row group, and so many bytes of each column are kept
// until they are compressed.
const (
	partRows = 16384
	pageSize = 128 << 10
)

func (f *parquetFile[T]) write(r *rows) error {
	f.part = append(f.part, *f.of(r)...)
	if len(f.part) < partRows {
		return nil
	}
	return f.flush()
}

func (f *parquetFile[T]) flush() error {
	if f.order != nil {
		slices.SortStableFunc(f.part, f.order)
	}
	if _, err := f.rows.Write(f.part); err != nil {
		return err
	}
	clear(f.part)
	f.part = f.part[:0]
	return f.rows.Flush()
}

func (f *parquetFile[T]) close() error {
	if err := f.flush(); err != nil {
		return err
	}
	f.rows.SetKeyValueMetadata(sumName, sumBegin+noSum)
	if err := f.rows.Close(); err != nil {
		return err
	}
	f.rows, f.part = nil, nil // there is memory for the next table
	if err := writeSum(f.file.File); err != nil {
		return err
	}
	return f.file.CloseAtomicallyReplace()
}

func (f *parquetFile[T]) abandon() error { return f.file.Cleanup() }
