package testnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"culprit/probes/internal/livetest"
)

// Load is what a process does: Exchange, Answer, Send, Receive, Talk, Short, Idle, HandOver, TakeOver, Inherit, Prefork, Hold, Spin, Tell, Hear or Deaf, which do
// that on one thread with plain system calls, as package net would have another thread wait for it; Serve or Browse, which do not.
type Load interface {
	run() (Counts, error)
	end() End
}

// End is how a load comes to its connection, and where it runs.
type End struct {
	Address netip.AddrPort
	Listen  bool // accept connections there, rather than open one
	Socket  Socket
	CPUs    []int // that it may use, if not all
	Nice    int   // -20 to 19
}

// Counts are what a load counted itself.
type Counts struct {
	Connections    int // opened or accepted
	Sent, Received int64
	DatagramsOut   int64 // of Tell and Hear, as the kernel counts them
	DatagramsIn    int64
	Connecting     time.Duration   // for how long it opened connections, by its clock
	Took           []time.Duration // what each kind of load says
	Windows        []Window        // of Idle
	Heir           *Counts         // of Inherit: the process that it starts. Of Prefork, too
	RunDelay       time.Duration   // that all its threads waited for a CPU
}

func (c *Counts) add(other Counts) {
	c.Connections += other.Connections
	c.Sent, c.Received = c.Sent+other.Sent, c.Received+other.Received
	c.Connecting += other.Connecting
	c.Took, c.Windows = append(c.Took, other.Took...), append(c.Windows, other.Windows...)
}

// Window is a congestion window, in segments, before a pause and after it.
type Window struct{ Before, After uint32 }

// Process is a load that runs.
type Process struct {
	PID   int
	child *livetest.Child
}

// Run starts a load in a process called comm. If it listens, others can connect once Run returns. The tests'
// main function must be livetest.Main or ChildMain, with Jobs.
func (n *Namespace) Run(comm string, l Load) *Process {
	n.t.Helper()
	arguments, err := json.Marshal(l)
	if err != nil {
		n.t.Fatal(err)
	}
	p := &Process{}
	err = n.Do(func() error {
		p.child = livetest.Start(n.t, comm, name(l), string(arguments))
		return nil
	})
	if err == nil && l.end().Listen {
		err = n.waitListening(l.end().Address.Port())
	}
	if err != nil {
		n.t.Fatal(err)
	}
	p.PID = p.child.PID
	return p
}

// Wait is until the load has done its work.
func (p *Process) Wait() (c Counts) {
	p.child.Result(&c)
	return c
}

// Jobs are the loads, for livetest.Main.
func Jobs() map[string]livetest.Job {
	return map[string]livetest.Job{
		name(Exchange{}): job[Exchange], name(Answer{}): job[Answer], name(Send{}): job[Send], name(Receive{}): job[Receive],
		name(Short{}): job[Short], name(Idle{}): job[Idle], name(HandOver{}): job[HandOver], name(TakeOver{}): job[TakeOver],
		name(Inherit{}): job[Inherit], name(heir{}): job[heir], name(Prefork{}): job[Prefork], name(worker{}): job[worker],
		name(Hold{}): job[Hold], name(Spin{}): job[Spin],
		name(Tell{}): job[Tell], name(Hear{}): job[Hear], name(Deaf{}): job[Deaf], name(deafHeir{}): job[deafHeir],
		name(Talk{}): job[Talk], name(Serve{}): job[Serve], name(Browse{}): job[Browse],
	}
}

func name(l Load) string { return fmt.Sprintf("%T", l) }

func job[L Load](args []string) (any, error) {
	var l L
	if len(args) != 1 {
		return nil, fmt.Errorf("%d arguments of a load", len(args))
	}
	if err := json.Unmarshal([]byte(args[0]), &l); err != nil {
		return nil, fmt.Errorf("reading the arguments: %w", err)
	}
	if err := l.end().settle(); err != nil {
		return nil, err
	}
	counts, err := l.run()
	if err == nil {
		counts.RunDelay, err = runDelay()
	}
	return counts, err
}

// runDelay is how long this process's threads have waited for a CPU, by the kernel's count.
func runDelay() (sum time.Duration, err error) {
	threads, err := filepath.Glob("/proc/self/task/*/schedstat")
	if err != nil {
		return 0, err
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
			continue // it has ended
		}
		var run, delay time.Duration
		if err == nil {
			_, err = fmt.Sscan(string(text), &run, &delay)
		}
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", thread, err)
		}
		sum += delay
	}
	return sum, nil
}

// settle takes the calling thread where it shall run.
func (e End) settle() error {
	if e.CPUs != nil {
		var set unix.CPUSet
		for _, cpu := range e.CPUs {
			set.Set(cpu)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("staying on the CPUs %v: %w", e.CPUs, err)
		}
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, e.Nice); err != nil {
		return fmt.Errorf("becoming nice %d: %w", e.Nice, err)
	}
	return nil
}

// Exchange is a client of Answer that writes a request, of one or more writes, and reads the reply. Each of Took is from
// the first write to the end of the reply.
type Exchange struct {
	End
	Count  int
	Writes []int         // bytes of each
	Reply  int           // bytes
	Work   time.Duration // that it computes before it reads the reply, by the clock,
	Late   time.Duration // and then sleeps
	Pause  time.Duration // after that
}

func (e Exchange) run() (Counts, error) {
	return e.once(func(c conn) (Counts, error) { return e.exchange(c, e.Count) })
}

func (e Exchange) exchange(c conn, count int) (counts Counts, err error) {
	for range count {
		begin := time.Now()
		for _, size := range e.Writes {
			if err := c.write(size, &counts); err != nil {
				return counts, err
			}
		}
		for begin := time.Now(); time.Since(begin) < e.Work; {
		}
		sleep(e.Late)
		if err := c.read(e.Reply, &counts); err != nil {
			return counts, err
		}
		counts.Took = append(counts.Took, time.Since(begin))
		sleep(e.Pause)
	}
	return counts, nil
}

// Answer is a server, of one connection after the other, that reads a request, sleeps, and writes the reply.
type Answer struct {
	End
	Connections int   // 0 is 1
	Requests    []int // their bytes, in turn; if there are none, a connection is closed after the sleep
	Reply       int   // bytes
	Sleep       time.Duration
}

func (a Answer) run() (counts Counts, err error) {
	return a.each(max(a.Connections, 1), func(_ int, c conn) (Counts, error) { return a.answer(c, 0) })
}

// answer ends with the requests, or after so many of them.
func (a Answer) answer(c conn, most int) (counts Counts, err error) {
	if len(a.Requests) == 0 {
		sleep(a.Sleep)
		return counts, nil
	}
	for i := 0; most == 0 || i < most; i++ {
		if err := c.read(a.Requests[i%len(a.Requests)], &counts); errors.Is(err, errEnd) {
			return counts, nil
		} else if err != nil {
			return counts, err
		}
		sleep(a.Sleep)
		if err := c.write(a.Reply, &counts); err != nil {
			return counts, err
		}
	}
	return counts, nil
}

// Send sends so many bytes to Receive. Took are the writes that took a millisecond or longer.
type Send struct {
	End
	Bytes int64
	Chunk int           // bytes of a write; 0 is 64 KiB
	Pause time.Duration // after each
}

const defaultChunk = 64 << 10

func (s Send) run() (Counts, error) {
	return s.once(func(c conn) (counts Counts, err error) {
		chunk := s.Chunk
		if chunk == 0 {
			chunk = defaultChunk
		}
		for counts.Sent < s.Bytes {
			begin := time.Now()
			if err := c.write(int(min(int64(chunk), s.Bytes-counts.Sent)), &counts); err != nil {
				return counts, err
			}
			if took := time.Since(begin); took >= time.Millisecond {
				counts.Took = append(counts.Took, took)
			}
			sleep(s.Pause)
		}
		if err := unix.Shutdown(int(c), unix.SHUT_WR); err != nil {
			return counts, err
		}
		return counts, c.readEnd()
	})
}

// Receive reads all that Send sends. If Send pauses, it is woken for each write: late, where Spin has its CPU.
type Receive struct {
	End
	Wait  time.Duration // before the first byte
	Chunk int           // bytes of a read, at most; 0 is 64 KiB
	Pause time.Duration // after each
}

func (r Receive) run() (Counts, error) {
	return r.once(func(c conn) (counts Counts, err error) {
		chunk := r.Chunk
		if chunk == 0 {
			chunk = defaultChunk
		}
		sleep(r.Wait)
		buf := make([]byte, chunk)
		for {
			n, err := c.readSome(buf)
			counts.Received += int64(n)
			if n == 0 || err != nil {
				return counts, err
			}
			sleep(r.Pause)
		}
	})
}

// Talk writes every so often, and reads what comes meanwhile: of two of them, neither waits for the other.
type Talk struct {
	End
	Writes int
	Size   int // bytes of each
	Every  time.Duration
}

func (l Talk) run() (Counts, error) {
	return l.once(func(c conn) (counts Counts, err error) {
		buf := make([]byte, defaultChunk)
		begin, more := time.Now(), true
		for i := range l.Writes {
			due := begin.Add(time.Duration(i+1) * l.Every)
			for more && time.Now().Before(due) {
				if more, err = c.readUntil(due, buf, &counts); err != nil {
					return counts, err
				}
			}
			sleep(time.Until(due))
			if err := c.write(l.Size, &counts); err != nil {
				return counts, err
			}
		}
		if err := unix.Shutdown(int(c), unix.SHUT_WR); err != nil {
			return counts, err
		}
		for more {
			if more, err = c.readUntil(time.Now().Add(patience), buf, &counts); err != nil {
				return counts, err
			}
		}
		return counts, nil
	})
}

// Idle has its congestion window grow with a request of one size to Answer, pauses, and sends one of another size, which are
// what Took says. It needs a congestion control that starts anew then, like cubic.
type Idle struct {
	End
	Rounds      int
	Warm, Burst int // bytes
	Pause       time.Duration
}

func (i Idle) run() (Counts, error) {
	return i.once(func(c conn) (counts Counts, err error) {
		for range i.Rounds {
			if err := c.write(i.Warm, &counts); err != nil {
				return counts, err
			}
			if err := c.read(1, &counts); err != nil {
				return counts, err
			}
			var w Window
			if w.Before, err = c.window(); err != nil {
				return counts, err
			}
			sleep(i.Pause)
			begin := time.Now()
			first := min(i.Burst, 10_000) // the window has changed once there is anything to send
			if err := c.write(first, &counts); err != nil {
				return counts, err
			}
			if w.After, err = c.window(); err != nil {
				return counts, err
			}
			if err := c.write(i.Burst-first, &counts); err != nil {
				return counts, err
			}
			if err := c.read(1, &counts); err != nil {
				return counts, err
			}
			counts.Windows, counts.Took = append(counts.Windows, w), append(counts.Took, time.Since(begin))
		}
		return counts, nil
	})
}

// Hold makes so many connections, and keeps them until the test ends.
type Hold struct {
	End
	Count int
}

func (h Hold) run() (counts Counts, err error) {
	const others = 100 // files
	files := unix.Rlimit{Cur: uint64(h.Count + others), Max: uint64(h.Count + others)}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		return counts, err
	}
	if now.Cur < files.Cur {
		files.Max = max(files.Max, now.Max)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
			return counts, fmt.Errorf("getting room for %d connections: %w", h.Count, err)
		}
	}
	listening := -1
	if h.Listen {
		if listening, err = h.listen(); err != nil {
			return counts, err
		}
	}
	for range h.Count {
		if _, err := h.next(listening); err != nil {
			return counts, err
		}
	}
	for {
		sleep(time.Hour)
	}
}

// Spin computes, all the time or in bursts. With RealTime, whoever else is to run on its CPU waits for a burst's end; a
// thread that is merely nicer mostly runs when it wakes up.
type Spin struct {
	End
	For          time.Duration
	Burst, Pause time.Duration // one after the other, if set
	RealTime     bool
}

func (s Spin) run() (Counts, error) {
	if s.RealTime {
		if err := livetest.BecomeRealTime(livetest.SpinPriority); err != nil {
			return Counts{}, err
		}
	}
	for end := time.Now().Add(s.For); time.Now().Before(end); sleep(s.Pause) {
		for begin := time.Now(); s.Burst == 0 && time.Now().Before(end) || time.Since(begin) < s.Burst; {
		}
	}
	return Counts{}, nil
}
