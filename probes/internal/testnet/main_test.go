package testnet

import (
	"testing"

	"culprit/probes/internal/livetest"
)

func TestMain(m *testing.M) { livetest.Main(m, Jobs()) }
