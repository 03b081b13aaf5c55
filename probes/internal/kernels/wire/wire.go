// Package wire is what a virtual machine of the kernel matrix and the program that starts
// it say to each other.
package wire

// The guest's disks, by serial number: their order is not always the same.
const (
	RootDisk   = "root"  // read-only: Debian packages
	TestDisk   = "tests" // read-only: what is tested, and the kernel's modules
	SpareDisks = "spare" // with a number: for the tests to write to
	SpareCount = 2
)

const (
	TestDir  = "/culprit" // where TestDisk is mounted
	PlanFile = TestDir + "/plan.json"
	Port     = "/dev/ttyS1" // events, as JSON lines
)

// Test is a test binary to run.
type Test struct {
	Package string
	Binary  string
	Dir     string
	Args    []string
	Env     []string
}

// Event is one line of the report.
type Event struct {
	Package string `json:",omitempty"`
	Output  []byte `json:",omitempty"` // of the test binary
	Ended   bool   `json:",omitempty"` // the test binary, with Status
	Status  int    `json:",omitempty"`
	Done    bool   `json:",omitempty"` // everything
}
