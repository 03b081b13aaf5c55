package hook

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// OpenSockets is how many TCP sockets have memory, in all namespaces: "alloc" of /proc/net/sockstat. It is 0 where procfs does not tell.
func OpenSockets(proc string) uint32 {
	text, err := os.ReadFile(filepath.Join(proc, "self/net/sockstat"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 8 && fields[0] == "TCP:" && fields[7] == "alloc" {
			n, _ := strconv.ParseUint(fields[8], 10, 24)
			return uint32(n)
		}
	}
	return 0
}
