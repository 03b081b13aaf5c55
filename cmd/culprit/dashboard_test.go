package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"culprit/output/metrics"
	"culprit/probes/snapshot"
)

// dashboard is what of Grafana's model is in use; that there is nothing else is checked, too.
type dashboard struct {
	Title, UID, Description, Refresh string
	SchemaVersion                    int
	Time                             struct{ From, To string }
	Templating                       struct{ List []variable }
	Panels                           []panel
}

type source struct{ Type, UID string }

type variable struct {
	Name, Label, Type, Query, AllValue string
	Datasource                         source
	Refresh, Sort                      int
	Multi, IncludeAll                  bool
	Current                            struct{ Text, Value string }
}

type panel struct {
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct {
		Defaults struct{ Unit string }
	}
	Datasource source
	Targets    []target
}

type target struct{ RefID, LegendFormat, Expr string }

// second is one of metrics, in which each has grown.
func second(m *metrics.Metrics) {
	const ms = uint64(time.Millisecond)
	p := snapshot.Process{App: "culprit.service"}
	lower, upper := snapshot.BucketBounds(snapshot.BucketOf(ms))
	latency := snapshot.Histogram{Buckets: []snapshot.Bucket{{Lower: lower, Upper: upper, Count: 5}}, Sum: 5 * ms, Max: ms}
	loss := []snapshot.Loss{{Name: "full", Count: 1}}
	m.IO(snapshot.IO{
		Rows: []snapshot.IORow{{Process: p, Device: "sda", Reads: 5, Writes: 5, ReadVia: snapshot.ReadVia{File: 4096}, WriteVia: snapshot.WriteVia{Writeback: 4096},
			ReadLatency: snapshot.IOLatency{Total: latency}, WriteLatency: snapshot.IOLatency{Total: latency}, BlockedNS: ms, ThrottledNS: ms}},
		Devices: []snapshot.IODevice{{Device: "sda", Ours: snapshot.IOCounts{WriteBytes: 4096}, Kernel: snapshot.IOCounts{WriteBytes: 4097}}}, Loss: loss})
	m.Sched(snapshot.Sched{
		Rows:   []snapshot.SchedRow{{Process: p, OnCPU: ms, Culprits: []snapshot.Culprit{{Process: p, NS: ms}}, Latency: latency}},
		Kernel: snapshot.SchedAudit{WaitNS: ms, KernelWaitNS: ms}})
	m.TCP(snapshot.TCP{Rows: []snapshot.TCPRow{{Process: p, TCPTraffic: snapshot.TCPTraffic{Sent: 100, Received: 100}, RTT: latency,
		Stalls: []snapshot.TCPStalls{{Cause: snapshot.RTO, Count: 1, Total: ms, Max: ms}}}}})
}

// series are the labels of those that a query gives.
func series(t *testing.T, prometheus, query string) (all []map[string]string) {
	t.Helper()
	answer, err := http.Get("http://" + prometheus + "/api/v1/query?" + url.Values{"query": {query}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var got struct {
		Error string
		Data  struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if err := json.NewDecoder(answer.Body).Decode(&got); err != nil || got.Error != "" {
		t.Fatalf("%s: %v %s", query, err, got.Error)
	}
	for _, r := range got.Data.Result {
		all = append(all, r.Metric)
	}
	return all
}

var (
	metricName  = regexp.MustCompile(`culprit_\w+`)
	groupLabels = regexp.MustCompile(`by \(([^)]*)\)`)
	legendLabel = regexp.MustCompile(`{{(\w+)}}`)
)

// Every query of the dashboard gives something in a real Prometheus, by each label that it names, and by none that there is not.
func TestDashboard(t *testing.T) {
	var d dashboard
	decoder := json.NewDecoder(strings.NewReader(deployed(t, "grafana.json")))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	m := metrics.New(10)
	second(m)
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(m); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, f := range families {
		served[f.GetName()] = true
	}
	known := func(query string) {
		for _, name := range metricName.FindAllString(query, -1) {
			if !served[name] {
				t.Errorf("%s is not served: %s", name, query)
			}
		}
	}
	server, err := metrics.Serve(m, "127.0.0.1:0", "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	address := startPrometheus(t, server.Address())

	// As Grafana replaces them. What .+ matches has the label.
	replace := []string{"$__rate_interval", "5s"}
	for _, v := range d.Templating.List {
		if v.Type == "datasource" {
			continue
		}
		known(v.Query)
		if v.Datasource.UID != "${datasource}" || v.AllValue == "" {
			t.Errorf("variable %s: %+v", v.Name, v)
		}
		replace = append(replace, "$"+v.Name, v.AllValue)
	}
	variables := strings.NewReplacer(replace...)

	places := map[string]bool{}
	var open []func() string // what is wrong with each query, "" once nothing is
	for _, p := range d.Panels {
		if !strings.HasSuffix(p.Title, "?") || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %+v", p)
		}
		place := fmt.Sprint(p.GridPos)
		if places[place] {
			t.Errorf("two panels are at %s", place)
		}
		places[place] = true
		for _, of := range p.Targets {
			known(of.Expr)
			query := variables.Replace(of.Expr)
			if strings.Contains(query, "$") {
				t.Errorf("there is no such variable: %s", query)
			}
			var labels []string
			for _, group := range groupLabels.FindAllStringSubmatch(query, -1) {
				labels = append(labels, strings.Split(group[1], ", ")...)
			}
			for _, label := range legendLabel.FindAllStringSubmatch(of.LegendFormat, -1) {
				labels = append(labels, label[1])
			}
			open = append(open, func() string {
				got := series(t, address, query)
				if len(got) == 0 {
					return "nothing is given by " + query
				}
				for _, label := range labels {
					if got[0][label] == "" {
						return fmt.Sprintf("there is no label %s in %v, of %s", label, got[0], query)
					}
				}
				return ""
			})
		}
	}
	for end := time.Now().Add(20 * time.Second); len(open) > 0; time.Sleep(200 * time.Millisecond) {
		second(m)
		var still []func() string
		for _, wrong := range open {
			if said := wrong(); said != "" {
				still = append(still, wrong)
				if time.Now().After(end) {
					t.Error(said)
				}
			}
		}
		if open = still; time.Now().After(end) {
			return
		}
	}
}
