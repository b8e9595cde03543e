"""Strict schemas of the parts that the chart uses of others' resources: ServiceMonitor, PrometheusRule, ScaledObject.

The schemas of Kubernetes itself do not have these kinds. A field that is not listed here is a fault: it must be looked
up in the definition of its project before it is added.
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
DURATION: Schema = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"}
COUNT: Schema = {"type": "integer", "minimum": 0}


def fields(required: dict[str, Schema], **optional: Schema) -> Schema:
    """An object with these fields and no others."""
    properties = required | optional
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def resource(version: str, kind: str, spec: Schema) -> Schema:
    metadata = fields({"name": TEXT}, labels=TEXTS, annotations=TEXTS)
    return fields({"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


_ENDPOINT = fields(
    {"port": TEXT},
    path=TEXT,
    interval=DURATION,
    authorization=fields({"credentials": fields({"name": TEXT, "key": TEXT})}, type=TEXT),
    relabelings=listed(fields({"targetLabel": TEXT, "replacement": TEXT})),
)
_RECORD = fields({"record": TEXT, "expr": TEXT}, labels=TEXTS)
_ALERT = fields({"alert": TEXT, "expr": TEXT}, labels=TEXTS, annotations=TEXTS, **{"for": DURATION})
_GROUP = fields({"name": TEXT, "rules": listed({"oneOf": [_RECORD, _ALERT]})}, interval=DURATION)
_TRIGGER = fields(
    {"type": {"enum": ["cpu", "prometheus"]}, "metadata": TEXTS},
    metricType={"enum": ["AverageValue", "Utilization"]},
)
_SCALING = fields({"behavior": fields({"scaleDown": fields({"stabilizationWindowSeconds": COUNT})})})
_TARGET = fields({"apiVersion": TEXT, "kind": TEXT, "name": TEXT})

SCHEMAS = {
    "ServiceMonitor": resource(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        fields({"selector": fields({"matchLabels": TEXTS}), "endpoints": listed(_ENDPOINT)}),
    ),
    "PrometheusRule": resource("monitoring.coreos.com/v1", "PrometheusRule", fields({"groups": listed(_GROUP)})),
    "ScaledObject": resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        fields(
            {"scaleTargetRef": _TARGET, "triggers": listed(_TRIGGER)},
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            advanced=fields({"horizontalPodAutoscalerConfig": _SCALING}),
        ),
    ),
}
