// Package node runs scripts of tests with packages that .ci/install has got from npm.
package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Command is node with a script, whose arguments are the folder of an npm package, NAME@VERSION, and args.
func Command(t testing.TB, npmPackage, script string, args ...string) *exec.Cmd {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(cache, "culprit", "npm", npmPackage)
	if _, err := os.Stat(folder); err != nil {
		t.Fatalf("%s is missing: .ci/install installs it: %v", npmPackage, err)
	}
	file := filepath.Join(t.TempDir(), "query.mjs")
	if err := os.WriteFile(file, []byte(script), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", append([]string{file, folder}, args...)...)
	cmd.Stderr = os.Stderr
	return cmd
}
