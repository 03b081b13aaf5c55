// Package parts writes a table in Parquet as a directory of numbered files, each of which is whole as soon as it is there.
package parts

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
)

// Writer writes one table, whose columns are T's fields.
type Writer[T any] struct {
	dir   string
	file  bytes.Buffer // the part so far, which is small: at most some bytes a row
	rows  *parquet.GenericWriter[T]
	added bool
	texts [][]int // T's fields that are strings, by their indexes
}

// New makes the directory of a table, and its first part, 0, without rows: so queries find the table and its columns even if
// none ever come.
func New[T any](dir string) (*Writer[T], error) {
	w := &Writer[T]{dir: dir}
	w.rows = parquet.NewGenericWriter[T](&w.file,
		parquet.Compression(&parquet.Zstd),
		parquet.DefaultEncodingFor(parquet.Int32, &parquet.RLEDictionary)) // CPUs, threads and the like are few
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		if f.Type.Kind() == reflect.String {
			w.texts = append(w.texts, f.Index)
		}
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		return nil, fmt.Errorf("making a table: %w", err)
	}
	return w, w.write(0)
}

// Add takes rows for the next part. Bytes in strings that are not UTF-8 become U+FFFD: readers refuse a file that has others.
func (w *Writer[T]) Add(rows []T) error {
	if len(rows) == 0 {
		return nil
	}
	w.added = true
	if _, err := w.rows.Write(w.valid(rows)); err != nil {
		return fmt.Errorf("encoding rows of %s: %w", filepath.Base(w.dir), err)
	}
	return nil
}

// valid is rows, or a copy of them if a string has to change.
func (w *Writer[T]) valid(rows []T) []T {
	copied := false
	for i := range rows {
		for _, text := range w.texts {
			s := reflect.ValueOf(&rows[i]).Elem().FieldByIndex(text).String()
			if utf8.ValidString(s) {
				continue
			}
			if !copied {
				rows, copied = slices.Clone(rows), true
			}
			reflect.ValueOf(&rows[i]).Elem().FieldByIndex(text).SetString(string([]rune(s)))
		}
	}
	return rows
}

// Seal writes the rows since the last part as one of that number, or no file if there are none.
func (w *Writer[T]) Seal(part int) error {
	if !w.added {
		return nil
	}
	w.added = false
	return w.write(part)
}

func (w *Writer[T]) write(part int) error {
	if err := w.rows.Close(); err != nil {
		return fmt.Errorf("encoding rows of %s: %w", filepath.Base(w.dir), err)
	}
	path := Path(w.dir, part)
	unsealed := filepath.Join(w.dir, "."+filepath.Base(path)+".part")
	err := os.WriteFile(unsealed, w.file.Bytes(), 0o666)
	if err == nil {
		err = os.Rename(unsealed, path)
	}
	if err != nil {
		os.Remove(unsealed)
		return fmt.Errorf("sealing a part of a table: %w", err)
	}
	w.file.Reset()
	w.rows.Reset(&w.file)
	return nil
}

// Path is the file of a part.
func Path(dir string, part int) string {
	return filepath.Join(dir, fmt.Sprintf("%05d.parquet", part))
}

// Read gives the rows of a part back.
func Read[T any](dir string, part int) ([]T, error) {
	rows, err := parquet.ReadFile[T](Path(dir, part))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", Path(dir, part), err)
	}
	return rows, nil
}
