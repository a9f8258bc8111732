defmodule SnakeBridge.TelemetryTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog

  alias SnakeBridge.Telemetry

  setup do
    on_exit(fn -> Telemetry.detach(:test) end)
  end

  defp forward(event, measurements, metadata, to), do: send(to, {event, measurements, metadata})

  test "a call emits start and stop with its times in microseconds" do
    events = for last <- [:start, :stop, :exception], do: [:snakebridge, :call, last]
    assert :ok = Telemetry.attach_many(:test, events, &forward/4, self())
    assert {:error, :already_exists} = Telemetry.attach(:test, [:snakebridge, :call, :stop], &forward/4, nil)
    {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16])

    assert_received {[:snakebridge, :call, :start], %{system_time: _},
                     %{library: "math", function: "sqrt", arity: 1}}

    assert_received {[:snakebridge, :call, :stop],
                     %{duration: duration, encode_time: encode, decode_time: decode}, %{module: "math"}}

    assert duration >= encode + decode
    {:error, _} = SnakeBridge.call("math", "nope")

    assert_received {[:snakebridge, :call, :exception], %{duration: _},
                     %{reason: %SnakeBridge.Error{category: :python_error}}}

    assert :ok = Telemetry.detach(:test)
    assert {:error, :not_found} = Telemetry.detach(:test)
    {:ok, _} = SnakeBridge.call("math", "sqrt", [16])
    refute_received {[:snakebridge, :call, :stop], _, _}
  end

  test "a handler that raises is detached and the call goes on" do
    Telemetry.attach(:test, [:snakebridge, :call, :start], fn _, _, _, _ -> raise "mine" end, nil)
    assert capture_log(fn -> assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16]) end) =~ "mine"
    assert {:error, :not_found} = Telemetry.detach(:test)
  end
end
