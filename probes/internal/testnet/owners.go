package testnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"culprit/probes/internal/livetest"
)

// Short makes many connections, one after the other; the same with Listen is its server. Each has a request and
// a reply of sizes that the seed tells both. A third is closed by the server first, a third is reset, by either in turn, and a third is
// closed by the client first.
type Short struct {
	End
	Count int
	Seed  uint64
	Most  int // bytes of a request or a reply
}

func (s Short) run() (Counts, error) {
	return s.each(s.Count, func(i int, c conn) (counts Counts, err error) {
		random := rand.New(rand.NewPCG(s.Seed, uint64(i)))
		request, reply := 1+random.IntN(s.Most), 1+random.IntN(s.Most)
		transfer := func(write bool, size int) {
			if err == nil && write {
				err = c.write(size, &counts)
			} else if err == nil {
				err = c.read(size, &counts)
			}
		}
		transfer(!s.Listen, request)
		transfer(s.Listen, reply)
		if err != nil {
			return counts, err
		}
		const (
			serverCloses = iota
			reset
			clientCloses
			ways
		)
		way, serverFirst := i%ways, i%ways == serverCloses
		if way == reset && i/ways%2 == 0 {
			serverFirst = true
			// A reset that overtakes the reply takes it away.
			transfer(!s.Listen, 1)
		}
		switch first := s.Listen == serverFirst; {
		case err != nil || first && way != reset:
			return counts, err
		case first:
			return counts, c.resets()
		case way == reset:
			return counts, c.readReset()
		default:
			return counts, c.readEnd()
		}
	})
}

// HandOver accepts a connection, answers the first requests, if any, and leaves the rest to TakeOver, by way of
// an abstract Unix socket of the namespace. It ends then.
type HandOver struct {
	Answer
	First   int
	Channel string
}

func (p HandOver) run() (Counts, error) {
	return p.once(func(c conn) (counts Counts, err error) {
		if p.First > 0 {
			if counts, err = p.answer(c, p.First); err != nil {
				return counts, err
			}
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return counts, err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrUnix{Name: "@" + p.Channel}
		for begin := time.Now(); ; sleep(time.Millisecond) {
			if err = unix.Connect(fd, to); err == nil || time.Since(begin) > patience {
				break
			}
		}
		if err == nil {
			err = unix.Sendmsg(fd, []byte{1}, unix.UnixRights(int(c)), nil, 0)
		}
		if err != nil {
			return counts, fmt.Errorf("passing the connection: %w", err)
		}
		return counts, nil
	})
}

// TakeOver answers the requests of the connection that it gets from HandOver, and counts none as accepted.
type TakeOver struct {
	Answer
	Channel string
}

func (t TakeOver) run() (Counts, error) {
	c, err := t.receive()
	if err != nil {
		return Counts{}, fmt.Errorf("receiving the connection: %w", err)
	}
	counts, err := t.answer(c, 0)
	return counts, errors.Join(err, unix.Close(int(c)))
}

func (t TakeOver) receive() (conn, error) {
	listening, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(listening)
	err = impatient(listening)
	if err == nil {
		err = unix.Bind(listening, &unix.SockaddrUnix{Name: "@" + t.Channel})
	}
	if err == nil {
		err = unix.Listen(listening, 1)
	}
	if err != nil {
		return -1, err
	}
	from, err := accept(listening)
	if err != nil {
		return -1, err
	}
	defer unix.Close(int(from))
	rights := make([]byte, unix.CmsgSpace(4))
	var n int
	if err := again(func() error {
		_, n, _, _, err = unix.Recvmsg(int(from), make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
		return err
	}); err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("%d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	return conn(fds[0]), nil
}

// Inherit is an Exchange whose first exchanges it does itself; the others are done by a process that it starts, called Heir.
type Inherit struct {
	Exchange
	First int
	Heir  string
}

func (i Inherit) run() (Counts, error) {
	var heirs Counts
	counts, err := i.once(func(c conn) (Counts, error) {
		counts, err := i.exchange(c, i.First)
		if err != nil {
			return counts, err
		}
		rest := heir{i.Exchange}
		rest.Count -= i.First
		return counts, inherit(i.Heir, rest, int(c), &heirs)
	})
	counts.Heir = &heirs
	return counts, err
}

// inherit has a process called comm do a load with a file of this process's, which is inherited there.
func inherit(comm string, l Load, fd int, counts *Counts) error {
	arguments, err := json.Marshal(l)
	if err != nil {
		return err
	}
	cmd, err := livetest.ChildCommand(comm, name(l), string(arguments))
	if err != nil {
		return err
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(own), "connection")
	defer f.Close()
	cmd.ExtraFiles, cmd.Stderr = []*os.File{f}, os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", comm, err)
	}
	return json.Unmarshal(text, counts)
}

const inherited conn = 3

// heir goes on with an Exchange on the connection that it has inherited.
type heir struct{ Exchange }

func (h heir) run() (Counts, error) { return h.exchange(inherited, h.Count) }

// Prefork is an Answer that only listens: a process that it starts, called Worker, accepts the connections.
type Prefork struct {
	Answer
	Worker string
}

func (p Prefork) run() (Counts, error) {
	listening, err := p.listen()
	if err != nil {
		return Counts{}, err
	}
	var workers Counts
	err = inherit(p.Worker, worker{p.Answer}, listening, &workers)
	return Counts{Heir: &workers}, errors.Join(err, unix.Close(listening))
}

// worker accepts connections from the socket that it has inherited.
type worker struct{ Answer }

func (w worker) run() (Counts, error) {
	return w.eachAt(int(inherited), max(w.Connections, 1), func(_ int, c conn) (Counts, error) { return w.answer(c, 0) })
}
