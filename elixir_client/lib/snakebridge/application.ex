defmodule SnakeBridge.Application do
  @moduledoc false
  use Application

  alias SnakeBridge.Codec.Opaque

  alias SnakeBridge.{
    Breaker,
    CallbackRegistry,
    Pool,
    SessionContext,
    SessionManager,
    Shared,
    Telemetry,
    Types
  }

  @impl true
  def start(_type, _args) do
    Opaque.create_key()
    Types.configure()
    Telemetry.create_table()
    Pool.create_tables()
    SessionContext.create_table()
    Shared.create_table()

    children = [
      Shared.Keeper,
      Pool.Journal,
      CallbackRegistry,
      SessionManager,
      {Registry, keys: :unique, name: SnakeBridge.Sessions},
      {Registry, keys: :duplicate, name: SnakeBridge.Flow.Live},
      {Task.Supervisor, name: SnakeBridge.Tasks},
      Breaker,
      {DynamicSupervisor, name: SnakeBridge.Pools, strategy: :one_for_one}
    ]

    with {:ok, supervisor} <-
           Supervisor.start_link(children, strategy: :one_for_one, name: SnakeBridge.Supervisor) do
      if Application.get_env(:snakebridge, :autostart, true), do: Pool.start_configured()
      {:ok, supervisor}
    end
  end
end
