// Package wire is what a virtual machine of the kernel matrix and the program that starts
// it say to each other.
package wire

import "path/filepath"

// The guest's disks, by serial number: their order is not always the same.
const (
	RootDisk   = "root"  // read-only: Debian packages
	TestDisk   = "tests" // read-only: what is tested, and the kernel's modules
	TempDisk   = "temp"  // an empty ext4: /tmp, so that what tests write there is disk I/O
	SpareDisks = "spare" // with a number: for the tests to write to
	SpareCount = 2

	// SpareDisksVariable names their nodes to the tests (probes/internal/livetest).
	SpareDisksVariable = "CULPRIT_TEST_DISKS"
	// GuestVariable says that the machine is the tests' alone: they may suspend it.
	GuestVariable = "CULPRIT_TEST_GUEST"
)

const (
	TestDir  = "/culprit" // where TestDisk is mounted
	PlanFile = TestDir + "/plan.json"
	Port     = "/dev/ttyS1" // events, as JSON lines
)

// Culprit is the program that tests run, in the directory of the plan.
const Culprit = "culprit"

// Test is a test binary to run, in the directory of the plan, which has the repository's files.
type Test struct {
	Package string // its directory
	Program string
	Args    []string
}

// Path, Dir and Env are how to start it when the plan's directory is root.
func (t Test) Path(root string) string { return filepath.Join(root, t.Program) }
func (t Test) Dir(root string) string  { return filepath.Join(root, t.Package) }
func (t Test) Env(root string) []string {
	return []string{"CULPRIT_TEST_PROGRAM=" + filepath.Join(root, Culprit)}
}

// Event is one line of the report.
type Event struct {
	Package string `json:",omitempty"`
	Output  []byte `json:",omitempty"` // of the test binary
	Ended   bool   `json:",omitempty"` // the test binary, with Status
	Status  int    `json:",omitempty"`
	Done    bool   `json:",omitempty"` // everything
}
