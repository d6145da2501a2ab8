package telephony

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// What people order the platform to do, as against what it is asked for by
// itself.

// byHand sends a call somewhere now, whatever was planned for it. What was
// planned and not done yet will not be done any more, also if this fails.
// Errors: NotFound for a call that nobody knows; Conflict if the platform
// refuses, or was sending the call elsewhere in this moment; Unavailable.
func (s *delegationService) byHand(ctx context.Context, callID, destination string) error {
	if !s.Provider.configured() {
		return errNoProvider
	}
	call := s.Events.callIndex(callID)
	known, err := s.store.callState(ctx, call)
	if err != nil {
		return fmt.Errorf("find the call: %w", err)
	}
	if known == 0 {
		return errs.New(errs.NotFound, "no such call")
	}
	d, err := s.takeOver(ctx, call, destination)
	if err != nil {
		return err
	}
	tries, err := s.persist(ctx, func(ctx context.Context) error { return s.Provider.delegate(ctx, callID, destination) })
	data := map[string]any{"attempts": tries, "by_hand": true}
	f, why := faultOf(err)
	if f != faultNone {
		data["detail"] = why.Error()
	}
	if d != nil {
		remark := map[fault]string{faultNone: "", faultRefused: "the platform refused", faultAway: tryAway, faultDoubtful: tryDoubtful}[f]
		if err := s.store.remark(context.WithoutCancel(ctx), d, remark); err != nil {
			s.Log.Warn("cannot note how a delegation by hand went", "error", err)
		}
		if s.Settled != nil {
			s.Settled(delegationManual)
		}
	}
	switch f {
	case faultNone:
		s.logged(ctx, callEntry("call.delegated", callID, destination, data))
	case faultRefused:
		s.logged(ctx, callEntry("call.delegate_refused", callID, destination, data))
	default:
		s.logged(ctx, callEntry("call.delegate_failed", callID, destination, data))
	}
	return err
}

// takeOver settles a delegation that is planned as done by hand, so that only
// one goes out. It gives nil if none was planned or it is settled already. One
// that is being sent is waited for.
func (s *delegationService) takeOver(ctx context.Context, call seal.Index, destination string) (*delegation, error) {
	for waited := false; ; {
		d, err := s.store.of(ctx, call)
		switch {
		case err != nil:
			return nil, fmt.Errorf("find the delegation: %w", err)
		case d != nil && waited && d.State == delegationDelegated:
			return nil, errs.New(errs.Conflict, "the call was being delegated to %s in this moment", d.Destination)
		case d == nil || d.State != delegationPending:
			return nil, nil
		}
		if wait := s.underWay(d); wait > 0 {
			waited = true
			if !sleep(ctx, nil, min(wait, lookAgain/2)) {
				return nil, errs.Wrap(errs.Unavailable, ctx.Err(), "delegate")
			}
			continue
		}
		taken, err := s.store.take(ctx, d, destination, store.MicrosOf(s.Now()))
		if err != nil {
			return nil, err
		}
		if taken {
			return d, nil
		}
	}
}

// persist does something with the platform, again while that is away, for
// twice the time that the platform may take for one answer. It tells how often
// it tried.
func (s *delegationService) persist(ctx context.Context, do func(context.Context) error) (tries int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.Config.ProviderTimeout)
	defer cancel()
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		tries++
		err = do(ctx)
		f, why := faultOf(err)
		if f != faultAway {
			return tries, err
		}
		wait := max(pause, why.after)
		if end, _ := ctx.Deadline(); wait >= time.Until(end) || !sleep(ctx, nil, wait) {
			return tries, err
		}
	}
}

// dial asks the platform to dial numbers. Errors: Conflict if it refuses,
// Unavailable.
func (s *delegationService) dial(ctx context.Context, r dialRequest) error {
	if !s.Provider.configured() {
		return errNoProvider
	}
	tries, err := s.persist(ctx, func(ctx context.Context) error { return s.Provider.dial(ctx, r) })
	f, why := faultOf(err)
	data := map[string]any{"attempts": tries, "numbers": r.Numbers}
	event := "numbers.dialled"
	if f != faultNone {
		event, data["detail"] = "numbers.dial_failed", why.Error()
	}
	e := eventlog.Entry{Event: event, Text: fmt.Sprintf("numbers: %d, destination: %s, code: %s", len(r.Numbers), r.Destination, r.Code),
		Refs: []eventlog.Ref{{Kind: "code", ID: r.Code}}}
	e.Data, _ = json.Marshal(data)
	s.logged(ctx, e)
	return err
}
