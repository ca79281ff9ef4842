"""What a daemon found at its start, as messages."""

from snapd.rpc import convert
from snapd.service import comparison, recovery
from snapd.service.inspection import findings
from snapd.v1 import system_service_pb2 as messages


def recovery_report(recovered: recovery.Report, compared: comparison.Compared) -> messages.GetRecoveryReportResponse:
    """Return what was half done, and what the comparison has found so far."""
    return messages.GetRecoveryReportResponse(
        changes=map(_change, recovered.changes),
        findings=map(_finding, compared.found),
        finding_count=compared.count,
        pool_compare_time=convert.timestamp(compared.pool),
        archive_compare_time=convert.timestamp(compared.archive),
        archive_error=convert.problem(compared.archive_problem),
    )


def _change(change: recovery.Recovered) -> messages.RecoveredChange:
    return messages.RecoveredChange(
        kind=change.intent.kind,
        target=change.target,
        outcome=messages.RecoveredChange.Outcome.Value(f"OUTCOME_{change.outcome}"),
        error=convert.problem(change.problem),
    )


def _finding(finding: findings.Finding) -> messages.Finding:
    return messages.Finding(
        kind=messages.Finding.Kind.Value(f"KIND_{finding.kind}"),
        subject=finding.subject,
        problem=finding.problem,
        affected=finding.affected,
    )
