"""A public client that knows of Latentwire only what reflection tells it: no stub of ours, no proto file."""

import asyncio
from pathlib import Path
from typing import Any

import factories
import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from raw_sensor import RawSensor, serving

CONTROL = "latentwire.v1.Control"


class ReflectedClient:
    """Calls unary methods by their names, with JSON's values for messages, like grpcurl."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self._database)  # fresh: the stubs of this process are in the default one

    def services(self) -> set[str]:
        return set(self._database.get_services())

    def methods(self, service: str) -> dict[str, Any]:
        return dict(self._pool.FindServiceByName(service).methods_by_name)

    def call(self, service: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
        found = self.methods(service)[method]
        asked, answer = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
        invoke = self._channel.unary_unary(
            f"/{service}/{method}", request_serializer=asked.SerializeToString, response_deserializer=answer.FromString
        )
        return MessageToDict(invoke(ParseDict(request, asked()), timeout=20), preserving_proto_field_name=True)


async def test_reflection_alone_is_enough_to_list_and_call_control(tmp_path: Path) -> None:
    bundle = factories.make_bundle(tmp_path / "b")
    async with serving(bundle.path) as (_, address), RawSensor(address, bundle) as sensor:
        await sensor.join()
        await sensor.send(sensor.batch(0, 8))
        await sensor.hear_results(0, 8)
        with grpc.insecure_channel(address) as channel:
            client = ReflectedClient(channel)
            services = await asyncio.to_thread(client.services)
            assert {CONTROL, "latentwire.v1.Sensors", "latentwire.v1.Bundles", "grpc.health.v1.Health"} <= services
            methods = await asyncio.to_thread(client.methods, CONTROL)
            assert {"ListSensors", "WatchSensors", "GetRate", "SetRate", "SetBudget", "PushBundle"} <= methods.keys()
            (listed,) = (await asyncio.to_thread(client.call, CONTROL, "ListSensors", {}))["sensors"]
            assert (listed["name"], listed["connected"], listed["images_answered"]) == ("cam", True, "8")
            turn = asyncio.create_task(
                asyncio.to_thread(client.call, CONTROL, "SetRate", {"sensor": "cam", "rate_scale": 4.0})
            )
            command = await sensor.hear()
            assert getattr(command, "rate_scale", None) == 4.0, command
            await sensor.send(sensor.announcement(4.0, command_id=command.command_id))  # type: ignore[union-attr]
            await sensor.send(sensor.batch(8, 8))
            answer = await turn
            assert answer["before"]["rate_scale"] == 2.0 and answer["after"]["rate_scale"] == 4.0
            assert answer["after"]["images"] == "8"
