package sched_test

import (
	"testing"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
)

func TestMain(m *testing.M) { livetest.Main(m, testnet.Jobs()) }
