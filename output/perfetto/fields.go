package perfetto

import "google.golang.org/protobuf/encoding/protowire"

// Numbers of fields, each block of the message and the file in Perfetto's protos/perfetto that it begins with.
const (
	tracePacket protowire.Number = 1 // Trace: trace/trace.proto

	packetFtrace      protowire.Number = 1 // TracePacket: trace/trace_packet.proto
	packetProcesses   protowire.Number = 2
	packetClocks      protowire.Number = 6
	packetTimestamp   protowire.Number = 8
	packetSequence    protowire.Number = 10
	packetTrackEvent  protowire.Number = 11
	packetInterned    protowire.Number = 12
	packetFlags       protowire.Number = 13
	packetSystemInfo  protowire.Number = 45
	packetDescription protowire.Number = 60

	clocksClock   protowire.Number = 1 // ClockSnapshot: trace/clock_snapshot.proto
	clocksPrimary protowire.Number = 2

	clockID   protowire.Number = 1 // ClockSnapshot.Clock
	clockTime protowire.Number = 2

	systemUtsname protowire.Number = 1 // SystemInfo: trace/system_info.proto
	systemVersion protowire.Number = 4

	utsSysname protowire.Number = 1 // Utsname
	utsRelease protowire.Number = 3
	utsMachine protowire.Number = 4

	treeThread protowire.Number = 2 // ProcessTree: trace/ps/process_tree.proto

	threadTID  protowire.Number = 1 // ProcessTree.Thread
	threadName protowire.Number = 2
	threadPID  protowire.Number = 3

	trackUUID    protowire.Number = 1 // TrackDescriptor: trace/track_event/track_descriptor.proto
	trackName    protowire.Number = 2
	trackThread  protowire.Number = 4
	trackParent  protowire.Number = 5
	trackCounter protowire.Number = 8

	descriptorPID protowire.Number = 1 // ThreadDescriptor: trace/track_event/thread_descriptor.proto
	descriptorTID protowire.Number = 2

	counterUnit protowire.Number = 3 // CounterDescriptor: trace/track_event/counter_descriptor.proto

	markCategory   protowire.Number = 3 // TrackEvent: trace/track_event/track_event.proto
	markAnnotation protowire.Number = 4
	markType       protowire.Number = 9
	markNameNumber protowire.Number = 10
	markTrack      protowire.Number = 11
	markName       protowire.Number = 23
	markValue      protowire.Number = 30
	markFlow       protowire.Number = 47
	markFlowEnd    protowire.Number = 48

	annotationNameNumber protowire.Number = 1 // DebugAnnotation: trace/track_event/debug_annotation.proto
	annotationInt        protowire.Number = 4
	annotationTextNumber protowire.Number = 17

	internedCategory protowire.Number = 1 // InternedData: trace/interned_data/interned_data.proto
	internedName     protowire.Number = 2
	internedArg      protowire.Number = 3
	internedText     protowire.Number = 29

	internedNumber protowire.Number = 1 // EventCategory, EventName, DebugAnnotationName, InternedString
	internedString protowire.Number = 2

	bundleCPU   protowire.Number = 1 // FtraceEventBundle: trace/ftrace/ftrace_event_bundle.proto
	bundleEvent protowire.Number = 2
	bundleLost  protowire.Number = 3
	bundleSched protowire.Number = 4

	schedSwitchTime  protowire.Number = 1 // FtraceEventBundle.CompactSched
	schedPrevState   protowire.Number = 2
	schedNextTID     protowire.Number = 3
	schedNextPrio    protowire.Number = 4
	schedNames       protowire.Number = 5
	schedNextName    protowire.Number = 6
	schedWakingTime  protowire.Number = 7
	schedWakingTID   protowire.Number = 8
	schedWakingCPU   protowire.Number = 9
	schedWakingPrio  protowire.Number = 10
	schedWakingName  protowire.Number = 11
	schedWakingFlags protowire.Number = 12

	eventTime       protowire.Number = 1 // FtraceEvent: trace/ftrace/ftrace_event.proto
	eventTID        protowire.Number = 2
	eventSwitch     protowire.Number = 4
	eventFlags      protowire.Number = 5
	eventWaking     protowire.Number = 20
	eventSoftirq    protowire.Number = 24
	eventSoftirqEnd protowire.Number = 25
	eventIRQ        protowire.Number = 36
	eventIRQEnd     protowire.Number = 37
	eventNewTask    protowire.Number = 235
	eventRename     protowire.Number = 236
	eventExec       protowire.Number = 237
	eventExit       protowire.Number = 238
	eventFree       protowire.Number = 240
	eventSignal     protowire.Number = 325
	eventGeneric    protowire.Number = 327
	eventSyscall    protowire.Number = 329
	eventSyscallEnd protowire.Number = 330
	eventOOMKill    protowire.Number = 334
	eventMigrate    protowire.Number = 491

	switchPrevName  protowire.Number = 1 // SchedSwitchFtraceEvent: trace/ftrace/sched.proto
	switchPrevTID   protowire.Number = 2
	switchPrevPrio  protowire.Number = 3
	switchPrevState protowire.Number = 4
	switchNextName  protowire.Number = 5
	switchNextTID   protowire.Number = 6
	switchNextPrio  protowire.Number = 7

	wakingName protowire.Number = 1 // SchedWakingFtraceEvent
	wakingTID  protowire.Number = 2
	wakingPrio protowire.Number = 3
	wakingCPU  protowire.Number = 5

	migrateName protowire.Number = 1 // SchedMigrateTaskFtraceEvent
	migrateTID  protowire.Number = 2
	migratePrio protowire.Number = 3
	migrateFrom protowire.Number = 4
	migrateTo   protowire.Number = 5

	execTID protowire.Number = 2 // SchedProcessExecFtraceEvent

	exitName protowire.Number = 1 // SchedProcessExitFtraceEvent
	exitTID  protowire.Number = 2
	exitPID  protowire.Number = 3

	freeName protowire.Number = 1 // SchedProcessFreeFtraceEvent
	freeTID  protowire.Number = 2

	newTaskTID   protowire.Number = 1 // TaskNewtaskFtraceEvent: trace/ftrace/task.proto
	newTaskName  protowire.Number = 2
	newTaskFlags protowire.Number = 3

	renameTID  protowire.Number = 1 // TaskRenameFtraceEvent
	renameName protowire.Number = 3

	softirqNumber protowire.Number = 1 // SoftirqEntryFtraceEvent, SoftirqExitFtraceEvent: trace/ftrace/irq.proto

	irqNumber protowire.Number = 1 // IrqHandlerEntryFtraceEvent, IrqHandlerExitFtraceEvent
	irqName   protowire.Number = 2 // of the first alone
	irqResult protowire.Number = 2 // of the second alone

	signalCode   protowire.Number = 1 // SignalGenerateFtraceEvent: trace/ftrace/signal.proto
	signalName   protowire.Number = 2
	signalTID    protowire.Number = 4
	signalResult protowire.Number = 5
	signalNumber protowire.Number = 6

	genericName  protowire.Number = 1 // GenericFtraceEvent: trace/ftrace/generic.proto
	genericField protowire.Number = 2

	genericFieldName protowire.Number = 1 // GenericFtraceEvent.Field
	genericFieldText protowire.Number = 3
	genericFieldInt  protowire.Number = 4
	genericFieldUint protowire.Number = 5

	syscallNumber protowire.Number = 1 // SysEnterFtraceEvent, SysExitFtraceEvent: trace/ftrace/raw_syscalls.proto
	syscallResult protowire.Number = 2 // of the second alone

	victimTID protowire.Number = 1 // MarkVictimFtraceEvent: trace/ftrace/oom.proto
)
