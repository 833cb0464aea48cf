"""The servers of chat/servers.py."""

from ..chat.servers import chat, chat_dir, plain, thinker

__all__ = ["chat", "chat_dir", "plain", "thinker"]
