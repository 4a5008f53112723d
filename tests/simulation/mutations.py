"""The rules of the protocol and of the engine, switched off one at a time. Each has to show itself in the simulator.

A mutation is a function that patches; `MUTATIONS` names the rule that it breaks, the options that make it likely to
show (nothing that another run could not have), and within how many seeds it must. `QUICK` ones take a few seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tests.simulation import switched_off_engine as off
from tests.simulation import switched_off_generations as generation_off
from tests.simulation import switched_off_groups as group_off
from tests.simulation import switched_off_isolation as apart_off
from tests.simulation import switched_off_parking as park_off
from tests.simulation import switched_off_ring as ring_off
from tests.simulation import switched_off_routing as route_off

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Mutation:
    rule: str
    patch: Callable[[Patch], None]
    seeds: int
    options: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False

    @property
    def name(self) -> str:
        return self.patch.__name__


MOVES: Final = {"move_rate": 8.0, "nodes": 3, "partitions": 4}
AWAY: Final = {
    "nodes": 2, "partitions": 2, "pause_rate": 25.0, "pause": 0.15, "move_rate": 12.0, "append_delay": 0.002, "write_delay": 0.003,
    "crash_rate": 0.0, "suspicion_rate": 0.0, "cut_rate": 0.0, "limit": 16, "no_answer": 0.0, "storage_full": 0.0,
}  # fmt: skip
SILENT: Final = {"no_answer": 0.3, "storage_full": 0.0}
CRASHES: Final = {"crash_rate": 3.0}
RESTARTS: Final = {"crash_rate": 6.0, "nodes": 3, "partitions": 4, "control_delay": 0.02, "loss": 0.0}
BACK_SOON: Final = {"crash_rate": 6.0, "downtime": 0.02, "nodes": 2, "partitions": 2, "write_delay": 0.005}
# Who is back owns partitions of which the round on its way knows nothing; it must hear of that round's epoch by the close alone.
BACK_AT_ONCE: Final = {
    **RESTARTS, "control_delay": 0.004, "append_delay": 0.002, "downtime": 0.02, "nodes": 2, "partitions": 12, "clients": 2,
    "write_delay": 0.02, "group_clients": 0, "hold_clients": 0, "followers": 0, "redrivers": 0, "isolated": 0.0,
    "deploy_rate": 0.0, "map_rate": 0.0, "regenerate_rate": 0.0, "audit_rate": 0.0, "forge_rate": 0.0, "suspicion_rate": 0.0,
    "cut_rate": 0.0, "pause_rate": 0.0, "move_rate": 0.0, "storage_full": 0.0, "no_answer": 0.0,
}  # fmt: skip
LAG: Final = {
    "history_seconds": 0.0,
    "loss": 0.3,
    "append_delay": 0.05,
    "write_delay": 0.004,
    "crash_rate": 0.0,
    "storage_full": 0.0,
    "nodes": 2,
    "partitions": 2,
    "limit": 16,
    "seconds": 3.0,
}
GROUPS: Final = {"group_clients": 6, "clients": 3, "nodes": 3, "partitions": 4, "write_delay": 0.01}
GENERATIONS: Final = {"nodes": 3, "partitions": 4, "write_delay": 0.01, "regenerate_rate": 20.0}
ROUTES: Final = {"nodes": 3, "partitions": 4, "write_delay": 0.01}
LONG_ROUNDS: Final = {
    "nodes": 5, "partitions": 6, "message_delay": 0.01, "append_delay": 0.002, "write_delay": 0.01, "loss": 0.0,
    "crash_rate": 0.0, "pause_rate": 0.0, "cut_rate": 0.0, "suspicion_rate": 0.0, "move_rate": 0.0, "storage_full": 0.0,
    "limit": 16,
}  # fmt: skip
PARKED: Final = {"redrivers": 4, "redrive_rate": 60.0, "write_delay": 0.01}
APART: Final = {"isolated": 1.0, "worker_delay": 0.02, "write_delay": 0.01, "nodes": 2, "partitions": 2}
SLOW_EPOCHS: Final = {**APART, "nodes": 3, "partitions": 4, "tick": 0.2, "append_delay": 0.002}
STOPPED: Final = {
    "nodes": 1, "write_delay": 0.006, "worker_loss": 0.15, "redrivers": 0, "deploy_rate": 0.1, "crash_rate": 0.0
}  # fmt: skip
FULL: Final = {"storage_full": 0.3, "append_delay": 0.02, "write_delay": 0.006}

MUTATIONS: Final = (
    Mutation("P", ring_off.in_flight_ignored_in_the_floor, 10, quick=True),
    Mutation("P", ring_off.promise_up_to_the_own_epoch, 20),
    Mutation("E1", ring_off.intro_not_capped, 20, quick=True),
    Mutation("E2", ring_off.carried_pair_taken_unseen, 20, quick=True),
    Mutation("J", ring_off.control_position_not_carried, 60, {"forge_rate": 0.0, "map_rate": 4.0}),
    Mutation("J", ring_off.epoch_not_carried, 20, {"forge_rate": 0.0}, quick=True),
    Mutation("E3", ring_off.deploy_acts_at_once, 60),
    Mutation("O3", ring_off.promise_before_open, 60, CRASHES),
    Mutation("E (K = 2, liveness)", ring_off.limit_span_of_two, 10),
    Mutation("O2", ring_off.open_at_own_epoch, 60, CRASHES),
    Mutation("O1", ring_off.log_not_read_after_the_view, 60, {"append_delay": 0.02, **MOVES}),
    Mutation("S", ring_off.restart_keeps_its_identity, 100, BACK_SOON),
    Mutation("O1, replay", ring_off.log_not_read_to_its_tail, 20, CRASHES, quick=True),
    Mutation("O3, exactly once", ring_off.request_memory_not_rebuilt, 10, CRASHES, quick=True),
    Mutation("Q after a restart", ring_off.reference_changes_forgotten, 100, CRASHES),
    Mutation("checkpoint", ring_off.checkpoint_of_a_later_memory, 100, {"checkpoint_rate": 8.0, **CRASHES}),
    Mutation("T", ring_off.view_forgotten_in_the_token, 100, {**MOVES, "control_delay": 0.02, "loss": 0.0}),
    Mutation("T, coverage", ring_off.hops_counted_for_visits, 100, {"cut_rate": 4.0, "pause_rate": 4.0, "nodes": 3}),
    Mutation("compaction", ring_off.compaction_ahead_of_the_slowest, 10, {"compact_rate": 8.0}, quick=True),
    Mutation("I4", ring_off.closes_below_closed, 10),
    Mutation("C", ring_off.close_without_expecting, 20, BACK_AT_ONCE, quick=True),
    Mutation("C tails", ring_off.tails_left_out, 10, quick=True),
    Mutation("Q in CLOSE", ring_off.reference_epoch_left_out, 20, quick=True),
    Mutation("L (liveness)", ring_off.nothing_sent_again, 20, {"loss": 0.2, "nodes": 3, "partitions": 4}),
    Mutation("L (liveness)", ring_off.no_wakes, 20, {"nodes": 3, "partitions": 4, "heartbeat": 1e6}),
    Mutation("exactly once", off.retry_not_deduplicated, 10, quick=True),
    Mutation("exactly once, joins", off.retry_does_not_join, 20),
    Mutation("exactly once, refusals", off.refusals_not_remembered, 60),
    Mutation("exactly once, watermark", off.below_the_lowest_is_new, 100, {"client_double": 0.4, "client_delay": 0.05}),
    Mutation(
        "exactly once, expiry",
        off.sessions_end_at_the_own_epoch,
        60,
        {"session_epochs": 24, "nodes": 1, "history_seconds": 0.3, **CRASHES},
    ),
    Mutation("E2, honest clients", off.one_reading_of_the_control_log_judges_all, 100),
    Mutation("W, refusals", off.refusals_answered_before_the_frame_lands, 60, FULL),
    Mutation("W, apply", off.applied_before_durable, 20, quick=True),
    Mutation("W, overlay", off.frame_in_flight_not_seen, 20, FULL, quick=True),
    Mutation("F, undo", off.computed_on_what_failed, 20, FULL, quick=True),
    Mutation("F", off.full_storage_taken_for_success, 10, FULL, quick=True),
    Mutation("F1", off.expectation_refreshed, 60, {**SILENT, **MOVES}, quick=True),
    Mutation("F1, a higher OPEN", off.what_has_the_slot_taken_for_a_fill, 200, {**MOVES, **AWAY}),
    Mutation("F1, mine", off.own_frame_not_known_again, 20, SILENT, quick=True),
    Mutation("F2", off.time_out_taken_for_failure, 60, SILENT, quick=True),
    Mutation("F2 (liveness)", off.never_filled, 20, SILENT),
    Mutation("F, moved (liveness)", off.given_up_with_what_is_in_flight, 60, {"append_delay": 0.02, **MOVES}),
    Mutation("F, moved", off.moved_is_told_before_the_slot_is_known, 60, {"append_delay": 0.02, **MOVES}),
    Mutation("R1", off.as_of_before_it_is_closed, 10, quick=True),
    Mutation("Q, copies", off.reference_rows_shown_as_they_come, 20, quick=True),
    Mutation("Q, own rows", off.own_reference_rows_before_recovery, 20, CRASHES, quick=True),
    Mutation(
        "Q, views", off.references_out_of_another_view, 200, {**MOVES, "control_delay": 0.02, "history_seconds": 100.0}
    ),
    Mutation("Q, parts", off.parts_of_two_reference_answers, 100, {"recent_bytes": 1500, "history_seconds": 0.3}),
    Mutation("Q, horizon", off.copies_reclaimed_beyond_what_they_hold, 60, LAG),
    Mutation("R1, horizon", off.reclaim_beyond_the_horizon, 60, {"history_seconds": 0.3}),
    Mutation("H", off.holds_ignored_by_the_horizon, 20, {"history_seconds": 0.3}, quick=True),
    Mutation("H, time", off.holds_dropped_before_they_expire, 20, {"history_seconds": 0.3}, quick=True),
    Mutation("H, slot", off.hold_decided_at_another_position, 20, {"history_seconds": 0.0}),
    Mutation("feeds, memory", off.feed_takes_memory_for_complete, 100, CRASHES),
    Mutation("feeds, log", off.feed_marks_an_epoch_half_read, 60, {"recent_bytes": 0}),
    Mutation("R1, scans", off.scans_show_the_latest, 10, quick=True),
    Mutation("G3, hi", group_off.slots_lent_without_an_end, 100, {**GROUPS, "deploy_rate": 6.0, "map_rate": 0.0}),
    Mutation("G3, triggers", group_off.what_triggers_saw_is_stamped_anew, 60, GROUPS),
    Mutation("G2, in flight", group_off.lent_slots_not_registered, 60, GROUPS),
    Mutation("G3, the highest", group_off.stamped_below_a_lender, 60, GROUPS),
    Mutation("G5", group_off.released_without_a_fill, 60, {**GROUPS, "append_delay": 0.05, **SILENT}),
    Mutation("G5 (liveness)", group_off.lent_for_ever, 60, {**GROUPS, "crash_rate": 3.0}),
    Mutation("G4", group_off.given_up_after_sending, 60, {**GROUPS, **SILENT}),
    Mutation("G6", group_off.latest_read_while_a_slot_is_lent, 200, {**GROUPS, "loss": 0.3}),
    Mutation("G2, exactly once", group_off.repeated_group_not_recognised, 60, GROUPS),
    Mutation("G, landing", group_off.landed_at_the_lenders_own_epoch, 60, GROUPS),
    Mutation("G2, nothing else", group_off.lent_beside_a_frame_in_flight, 60, GROUPS),
    Mutation("X3, on arrival", route_off.acknowledged_on_arrival, 60, {**ROUTES, "append_delay": 0.02}),
    Mutation("X3, the subtree", route_off.done_before_its_own_outputs, 60, ROUTES),
    Mutation("X4", route_off.floor_not_held_by_the_root, 20, ROUTES, quick=True),
    Mutation("X1, again (liveness)", route_off.not_said_again_by_a_new_owner, 20, {**ROUTES, "loss": 0.2}),
    Mutation("O3, outbox", route_off.outbox_forgotten_by_a_new_owner, 60, {**ROUTES, **CRASHES}),
    Mutation("X2, exactly once", route_off.sources_not_recognised, 60, {**ROUTES, "loss": 0.2}),
    Mutation("O3, exactly once", route_off.sources_forgotten_by_a_new_owner, 100, {**ROUTES, **CRASHES, "loss": 0.2}),
    Mutation(
        "O3, checkpoints", route_off.routes_left_out_of_checkpoints, 100, {**ROUTES, **CRASHES, "checkpoint_rate": 8.0}
    ),
    Mutation("X2, the stamp", route_off.routed_stamped_below_the_own_epoch, 60, ROUTES),
    Mutation("X2, the epoch", route_off.seen_by_its_stamp, 20, ROUTES, quick=True),
    Mutation("X6", route_off.target_read_at_its_latest, 60, ROUTES),
    Mutation("X6, final", route_off.target_read_before_its_epoch_is_over, 60, ROUTES),
    Mutation("I17", route_off.merged_in_order_of_arrival, 20, ROUTES, quick=True),
    Mutation("I17, closed", route_off.operands_let_go_too_early, 60, ROUTES),
    Mutation(
        "I17, checkpoints",
        route_off.operands_left_out_of_checkpoints,
        100,
        {**ROUTES, **CRASHES, "checkpoint_rate": 8.0},
    ),
    Mutation("X7", route_off.tails_of_visits_only, 200, ROUTES),
    Mutation("X7, the subtree", route_off.tails_of_the_receiver_only, 200, LONG_ROUNDS),
    Mutation("X6, code", route_off.routed_by_the_newest_code, 60, {**ROUTES, "deploy_rate": 6.0}),
    Mutation("X8", route_off.failures_swallowed, 20, ROUTES, quick=True),
    Mutation("X9", route_off.taken_in_any_order, 20, ROUTES, quick=True),
    Mutation("X, F2 (liveness)", route_off.not_requeued_after_a_fill, 60, {**ROUTES, **SILENT}),
    Mutation("parked, exactly once", park_off.redriven_and_still_parked, 20, PARKED, quick=True),
    Mutation("parked, O3", park_off.parked_writes_forgotten_by_a_new_owner, 20, {**PARKED, **CRASHES}, quick=True),
    Mutation(
        "parked, checkpoints",
        park_off.parked_writes_left_out_of_checkpoints,
        100,
        {**PARKED, **CRASHES, "checkpoint_rate": 8.0},
    ),
    Mutation(
        "parked, checkpoints",
        park_off.parked_writes_of_a_later_moment_in_checkpoints,
        200,
        {**PARKED, **CRASHES, "checkpoint_rate": 20.0},
    ),
    Mutation("parked, superseded", park_off.later_versions_not_seen, 20, PARKED, quick=True),
    Mutation("parked, in flight", park_off.redriven_on_a_frame_in_flight, 60, PARKED),
    Mutation("parked, room", park_off.parked_nowhere, 20, PARKED, quick=True),
    Mutation("generations", generation_off.others_left_behind, 20, GENERATIONS, quick=True),
    Mutation("generations, base", generation_off.late_outputs_counted_with_the_base, 60, GENERATIONS),
    Mutation("generations, log", generation_off.built_from_what_has_not_landed, 60, GENERATIONS),
    Mutation("generations, O3", generation_off.opened_without_them, 100, {**GENERATIONS, **CRASHES}),
    Mutation("generations, I9", generation_off.followed_across_a_switch, 60, {**GENERATIONS, "followers": 6}),
    Mutation("E4, in the making", apart_off.makings_not_counted, 20, APART, quick=True),
    Mutation("E4, the stamp", apart_off.made_at_the_answer, 20, APART, quick=True),
    Mutation("isolation, the base", apart_off.base_undone_and_still_made, 60, {**APART, **FULL}),
    Mutation("isolation, refused rows", apart_off.run_on_refused_rows, 30, {**APART, **STOPPED}, quick=True),
    Mutation("isolation, nothing beside", apart_off.computed_beside_a_making, 10, SLOW_EPOCHS, quick=True),
    Mutation("isolation, which batch", apart_off.any_answer_taken, 60, {**APART, **SILENT}),
    Mutation(
        "isolation, groups (liveness)",
        apart_off.loans_not_dropped,
        60,
        {**APART, **GROUPS, "crash_rate": 3.0, "evict_after": 0.3},
    ),
)
