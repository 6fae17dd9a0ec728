"""Sending to and fetching from a hub: sentences of the page, as in ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "publish.title": ("发布到模型社区", "Push to a hub"),
    "publish.open": ("发布…", "Push to a hub…"),
    "publish.close": ("关闭", "Close"),
    "publish.hub": ("模型社区", "Hub"),
    "publish.asking": ("正在连接模型社区…", "Asking the hub…"),
    "publish.account": ("账号 {name}", "As {name}"),
    "publish.repo": ("仓库（账号或组织/名称）", "Repository (account or organisation/name)"),
    "publish.visibility": ("谁能看到", "Who can see it"),
    "publish.private": ("私有", "Private"),
    "publish.private.note": ("只有你，或组织的成员", "you, or the members of the organisation"),
    "publish.public": ("公开", "Public"),
    "publish.public.note": ("谁都能看到和下载", "everybody can see and download it"),
    "publish.look": ("核对", "Check what will be sent"),
    "publish.check": ("请核对，确认之前不会上传任何文件", "Please check; nothing is sent before you confirm"),
    "publish.row.account": ("账号", "Account"),
    "publish.row.repo": ("仓库", "Repository"),
    "publish.row.files": ("文件", "Files"),
    "publish.new": ("新建", "made now"),
    "publish.there": ("已存在，同名文件会被替换", "it is there; files of the same names are replaced"),
    "publish.count": ("{count} 个，共 {size}", "{count}, {size} in all"),
    "publish.left": ("不上传：{names}", "Not sent: {names}"),
    "publish.told": (
        "{file} 里写着这台机器的路径 {value}，上传后看得到仓库的人也看得到它。",
        "{file} names {value} of this machine; whoever sees the repository sees that, too.",
    ),
    "publish.back": ("返回修改", "Back"),
    "publish.send": ("确认上传到 {hub}", "Confirm and send to {hub}"),
    "publish.cancel": ("取消", "Cancel"),
    "publish.cancelling": ("正在取消…", "Cancelling…"),
    "publish.preparing": ("正在读文件、连接模型社区…", "Reading files, asking the hub…"),
    "publish.sending": (
        "正在上传，{done} / {total}，{rate}/s，还要 {left}",
        "Sending, {done} of {total}, {rate}/s, {left} left",
    ),
    "publish.sent": ("正在上传，{done} / {total}", "Sending, {done} of {total}"),
    "publish.done": ("已发布：", "It is there: "),
    "publish.cancelled": (
        "已取消，没有提交任何文件。已传完的大文件再发布时不必重传；新建的空仓库可以在网站上删除。",
        "Cancelled; nothing was committed. Large files that arrived are not sent again; an empty repository made for this "
        "can be deleted on the site.",
    ),
    "publish.busy": (
        "正在上传 {name}，请等它传完。",
        "{name} is being sent. Wait for it to end.",
    ),
    "publish.failed": ("与程序失去联系，请检查它是否还在运行。", "No answer from the program. Is it still running?"),
    "publish.silent": (
        "模型社区还没有回应，还在等。可以关闭这个窗口，过一会儿再试。",
        "The hub has not answered yet; still waiting. You can close this, and try again later.",
    ),
    "get.late": ("{name}：{late}", "{name}: {late}"),
    "hub.silent": (
        "模型社区已有 {seconds} 秒没有回应，还在等。可以取消，换一个来源或镜像再试。",
        "No answer from the hub for {seconds} seconds; still waiting. You can cancel, and try another hub or mirror.",
    ),
    "pull.asking": ("正在连接模型社区…", "Asking the hub…"),
    "pull.fetching": ("正在取 {name}，{done} / {total}", "Fetching {name}, {done} of {total}"),
    "pull.cancelled": ("已取消，下次会接着下载。", "Cancelled; the next time goes on from there."),
}
